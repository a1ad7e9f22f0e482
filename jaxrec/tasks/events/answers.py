"""What ``python -m jaxrec.recommend`` does with a run of merrec, and how it prints it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrec.cli.command import as_json, say
from jaxrec.data.codes import noted_unknown
from jaxrec.data.given import SUCH_AS, read_events
from jaxrec.errors import UserError, one_line
from jaxrec.tasks.cutoffs import default_k
from jaxrec.tasks.events.listings import SHOWN, shown_time
from jaxrec.tasks.events.recommend import EventRecommender, Happening, Suggestion
from jaxrec.tasks.vectors import UnknownItems

TASKS = ("events", "example", "similar_to")  # one of them is asked for
OF_SIMILAR = ("exclude", "where", "at", "include_bought")  # without meaning there
WIDTH = 50  # characters of a name that are shown


def answer(options: Namespace) -> None:
    """Print what is recommended."""
    _check(options)
    given = read_events(options.events) if options.events is not None else None
    market = EventRecommender.load(options.run, options.model)
    with noted_unknown(UnknownItems):
        if options.add_items is not None:
            market.add_items(options.add_items)
        if options.k is None:
            options.k = default_k(len(market.listings))
        if options.similar_to is not None:
            _print(options, {}, market.similar_items(options.similar_to, options.k))
            return
        happened = market.example(options.seed) if options.example else []
        asked = happened[:-1] or happened  # what came last is what a recommendation should have been
        events: Any = [{"item": one.item, "event": one.event} for one in asked] if asked else given
        at = options.at
        if at is None and asked and market.listings.live:
            at = asked[-1].time
        unknown = market.unknown(events)
        found = market.recommend(
            events,
            options.k,
            options.where and " ".join(options.where),
            options.exclude,
            not options.include_bought,
            at,
        )
    if not found:
        say("note", "the exclusions leave nothing to recommend")
    extra: dict[str, Any] = {"unknown": unknown, "popularity": len(unknown) == len(events)}
    if market.listings.live:
        extra["at"] = market.listings.time(at)
    if happened:
        extra |= {"events": asked, "next": happened[-1] if len(happened) > 1 else None}
    _print(options, extra, found)


def _check(options: Namespace) -> None:
    asked = [name for name in TASKS if getattr(options, name) not in (None, False)]
    if len(asked) != 1:
        found = " and ".join(f"--{name.replace('_', '-')}" for name in asked) or "none is given"
        raise UserError(f"--events, --example, --similar-to: {found}; give one of them, such as --events FILE.json "
                        f"with {SUCH_AS}")  # fmt: skip
    if options.seed is not None and not options.example:
        raise UserError("--seed: belongs to --example; leave it out")
    if options.seed is not None and options.seed < 0:
        raise UserError(f"--seed {options.seed}: expected 0 or more")
    if options.similar_to is not None:
        for name in OF_SIMILAR:
            if getattr(options, name) not in (None, [], False):
                raise UserError(f"--similar-to: --{name.replace('_', '-')} does not go with it; leave one of them out")


# ---- printing --------------------------------------------------------------------------------------------------------


def _print(options: Namespace, extra: Mapping[str, Any], found: Sequence[Suggestion]) -> None:
    if options.json:
        rows = [{"item": one.item, "score": one.score} | one.known for one in found]
        print(as_json(_plain(extra) | {"recommendations": rows}))
        return
    lines = []
    if "events" in extra:
        lines += ["what happened:", *_happenings(extra["events"])]
        if extra["next"] is not None:
            rank = next((f"place {n} below" for n, one in enumerate(found, 1) if one.item == extra["next"].item),
                        f"not among the {len(found)} below")  # fmt: skip
            lines += [f"what came next ({rank}):", *_happenings([extra["next"]])]
    if "at" in extra:
        lines.append(f"recommended of what is live at {shown_time(extra['at'])}:")
    elif "events" in extra:
        lines.append("recommended:")
    width = max((len(str(one.item)) for one in found), default=4)
    if found:
        what = "score" if options.similar_to is None else "similarity"
        lines.append(f"{'rank':>4}  {'item':>{width}}  {what:>10}  {'price':>10}  {'name':<{WIDTH}}  more")
    lines += [f"{rank:4d}  {one.item!s:>{width}}  {one.score:10.4f}  {_described(one.known)}"
              for rank, one in enumerate(found, 1)]  # fmt: skip
    print("\n".join(map(one_line, lines)))


def _happenings(happened: Sequence[Happening]) -> list[str]:
    width = max(len(str(one.item)) for one in happened)
    return [
        f"  {shown_time(one.time)}  {one.event:<20}  {one.item!s:>{width}}  {_described(one.known)}" for one in happened
    ]


def _described(known: Mapping[str, Any]) -> str:
    """Price, name, and what else is known of an item; names are anybody's text, so that nothing but a line is shown."""
    price = "" if known["price"] is None else f"{known['price']:,.2f}"
    category = " / ".join(known[name] for name in ("c0_name", "c1_name", "c2_name") if known[name])
    rest = [part for part in (category, known["brand_name"], known["item_condition_name"]) if part]
    rest += [f"{name} {value}" for name, value in known.items() if name not in SHOWN and value is not None]
    return f"{price:>10}  {_line(known['name']) or '(no name)':<{WIDTH}}  {_line(', '.join(rest), 100)}".rstrip()


def _line(text: str, most: int = WIDTH) -> str:
    shown = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _plain(extra: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it."""
    plain = dict(extra)
    if "events" in plain:
        plain["events"] = [_happening(one) for one in plain["events"]]
        plain["next"] = plain["next"] and _happening(plain["next"])
    return plain


def _happening(one: Happening) -> dict[str, Any]:
    return {"item": one.item, "event": one.event, "time": one.time} | one.known

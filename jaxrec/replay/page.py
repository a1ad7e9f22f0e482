"""What a replay says at its end: a table on the terminal, the same as Markdown and JSON, and a picture."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

import numpy as np

from jaxrec import __version__
from jaxrec.cli.runtime import machine
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.plots.days import draw_days
from jaxrec.replay.loop import Replay
from jaxrec.replay.policies import BASE, CONTINUE, SCRATCH
from jaxrec.replay.withheld import PARTIAL, compared, lines
from jaxrec.run import write_text

ALL, LATER = "all days", "after the first day"
SECONDS = ("train", "compile", "save", "rank")
Rows = dict[str, dict[str, dict[str, float]]]
"""Metrics and seconds by day, or name of a pool, and by policy."""


class Told(NamedTuple):
    """The figures of a replay."""

    rows: Rows
    metrics: tuple[str, str]  # recall and MRR at the cut-off
    ratios: dict[str, float]  # of continue to scratch, after the first day: of metrics and of seconds of training
    withheld: dict[str, Any]  # what ``replay.withheld`` compares; empty where nothing is withheld


def told(replay: Replay) -> Told:
    """Figures by day, and pooled over the targets of all days, and of those after the first, which all policies answer
    with the base run."""
    work, dates = replay.work, list(replay.work.days)
    names = f"recall@{replay.k}", f"mrr@{replay.k}"
    pools = {date: [date] for date in dates} | {ALL: dates} | ({LATER: dates[1:]} if dates[1:] else {})
    rows: Rows = {title: {} for title in pools}
    for policy in replay.policies:
        ranks = {date: work.ranks(policy, date) for date in dates}
        for title, pool in pools.items():
            values = ranking_metrics(np.concatenate([ranks[date] for date in pool]), [replay.k])
            spent = {f"seconds_{part}": sum(work.results[policy][date].get(f"seconds_{part}", 0.0) for date in pool)
                     for part in SECONDS}  # fmt: skip
            rows[title][policy] = {name: values[name] for name in names} | spent
    ratios = {}
    if LATER in rows and {CONTINUE, SCRATCH} <= set(replay.policies):
        ours, theirs = (rows[LATER][policy] for policy in (CONTINUE, SCRATCH))
        ratios = {name: ours[name] / theirs[name] for name in (*names, "seconds_train") if theirs[name]}
    withheld = compared(work.ranks, dates[1:], replay.k) if PARTIAL in replay.policies and dates[1:] else {}
    return Told(rows, names, ratios, withheld)


def write_pages(replay: Replay, text: str) -> str:
    """Write ``replay.json``, ``replay.md`` and ``replay.png`` of a finished replay that the command ``text`` asked for;
    returns the table and what was written."""
    found, work = told(replay), replay.work
    picture, page, data = (work.path / f"replay.{ending}" for ending in ("png", "md", "json"))
    by_day = {policy: {name: [found.rows[date][policy][name] for date in work.days] for name in found.metrics}
              for policy in replay.policies}  # fmt: skip
    draw_days(list(work.days), by_day, picture)
    write_text(data, json.dumps(_facts(replay, found, text), indent=2) + "\n")
    table = _table(replay, found)
    write_text(page, "\n".join(_markdown(replay, found, text, table, picture.name)) + "\n")
    return "\n".join(
        [*_aligned(table), *_sentences(replay, found), f"written to {page}, {data.name} and {picture.name}"]
    )


def _facts(replay: Replay, found: Told, text: str) -> dict[str, Any]:
    work, how = replay.work, replay.continuing
    return {
        "command": text, "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC", "jaxrec": __version__,
        "machine": machine(), "policies": list(replay.policies), "k": replay.k,
        "continue": {"epochs": how.epochs, "days": how.days, "learning_rate": how.learning_rate},
        "config": replay.config.model_dump(mode="json"), "cleaning": replay.log.cleaning.options(),
        "bases": work.bases, "days": work.days,
        "by_day": {date: found.rows[date] for date in work.days},
        "pooled": {title: found.rows[title] for title in (ALL, LATER) if title in found.rows},
        "continue_to_scratch": found.ratios,
        "withheld": {"share": replay.withhold, **found.withheld} if found.withheld else None,
    }  # fmt: skip


def _table(replay: Replay, found: Told) -> list[list[str]]:
    """Rows of cells: targets, those left out, and of each policy recall, MRR and seconds of training."""
    heads, days = ["day", "targets", "left out", "items"], replay.work.days
    for policy in replay.policies:
        heads += [f"{policy} {name}" for name in (*found.metrics, "train s")]
    rows = [heads]
    for title, values in found.rows.items():
        pool = [title] if title in days else list(days)[title == LATER :]
        sums = [sum(days[date][name] for date in pool) for name in ("targets", "left_out")]
        cells = [title, *(f"{one:,}" for one in sums), f"{days[pool[-1]]['items']:,}"]
        for policy in replay.policies:
            one = values[policy]
            cells += [*(f"{one[name]:.4f}".replace("0.", ".", 1) for name in found.metrics),
                      f"{one['seconds_train']:,.1f}"]  # fmt: skip
        rows.append(cells)
    return rows


def _aligned(table: list[list[str]]) -> list[str]:
    """The table for the terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *row in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return lines


def _sentences(replay: Replay, found: Told) -> list[str]:
    """How continuing compares with training from scratch, and what became of old items."""
    told = []
    if len(found.ratios) == 3:
        recall, mrr = (f"{100 * (found.ratios[name] - 1):+.1f} % of {name}" for name in found.metrics)
        told = [f"{LATER}, {CONTINUE} has {recall} and {mrr} to {SCRATCH}, in {found.ratios['seconds_train']:.3f} of "
                "its seconds of training"]  # fmt: skip
    return told + (lines(found.withheld, replay.k) if found.withheld else [])


def _markdown(replay: Replay, found: Told, text: str, table: list[list[str]], picture: str) -> list[str]:
    how, base, config = replay.continuing, replay.work.bases[BASE], replay.config
    rate = "the configured learning rate" if how.learning_rate is None else f"learning rate {how.learning_rate:g}"
    others = []
    for policy, spent in found.rows[ALL].items():
        parts = [f"{part} {spent[f'seconds_{part}']:,.1f}" for part in SECONDS[1:]]
        others.append(f"{policy} {', '.join(parts)}")
    prepared = sum(day["seconds_prepare"] for day in replay.work.days.values())
    return [
        f"# Replay of {config.model.name} over {len(replay.work.days)} days", "",
        f"    {text}", "",
        "- *frozen*: one run of all days before the first. *continue*: each day a run starts from that of the day "
        f"before and trains {how.epochs} epochs on the last {how.days} days with {rate}. *scratch*: each day a run is "
        f"trained anew, {config.training.epochs} epochs on all days before. On the first day all are the base run.",
        "- Every target of a day counts, and is ranked among the items that the days before hold often enough. Targets "
        "that are none of these, or follow none in their session, are left out (counted beside). What a run does not "
        "know of the others, it misses.",
        "- Pooled figures are over targets. Seconds of training are without compiling and saving; those of the base "
        f"run, {base['seconds_train']:,.1f}, are counted for none. Other seconds: {'; '.join(others)}; making the data "
        f"sets {prepared:,.1f}.",
        *([f"- *partial*: as frozen, but {replay.withhold:.0%} of the items, drawn at random, are withheld from its "
           "training; *rejoined* continues from it with all items. Old items are those that partial knows."]
          if found.withheld else []), "",
        *(f"| {' | '.join(row)} |" for row in (table[0], ["---", *["---:"] * (len(table[0]) - 1)], *table[1:])), "",
        *(f"- {sentence}" for sentence in _sentences(replay, found)), "",
        f"![metrics by day]({picture})",
    ]  # fmt: skip

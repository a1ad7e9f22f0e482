"""python -m jaxrec.replay: train up to a day and test on the next, with and without retraining."""

from __future__ import annotations

import argparse
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jaxrec import config as configuration
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, ranged, say
from jaxrec.cli.lock import owned
from jaxrec.cli.text import check_path
from jaxrec.config import Config
from jaxrec.data.clean.protocol import LEAVE_ONE_OUT, Cleaning
from jaxrec.errors import UserError, listed, nearest
from jaxrec.prepare import MOST, add_cleaning
from jaxrec.replay.days import DayLog
from jaxrec.replay.loop import Replay
from jaxrec.replay.page import write_pages
from jaxrec.replay.policies import CONTINUE, DAYS, EPOCHS, POLICIES, Continuing, with_fields
from jaxrec.replay.withheld import PARTIAL, REJOINED
from jaxrec.replay.work import Work
from jaxrec.sources import find_sources

DESCRIPTION = """\
Replay the last days of a raw log of sessions: each is answered by runs that know the days before, under policies of
retraining side by side:

  python -m jaxrec.replay --config gru4rec_diginetica --raw clicks.parquet --days 14 --run checkpoints/replay

frozen: one run, trained on all days before the first of them. continue: each day a run starts from that of the day
before (train --start-from) and trains few epochs on recent days. scratch: each day a run is trained anew on all days
before. Every target of a day counts whose item the days before hold often enough; what a run does not know it misses.
Fields of the configuration can be given as to train. The run directory gets replay.json, replay.md and replay.png.
Killed or stopped, the same command goes on.
"""
NAMED = {"session": ["session"], "item": "item", "time": "time"}  # columns of --source events, unless others are named


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    chosen = Parser(prog="python -m jaxrec.replay", add_help=False)
    chosen.add_argument("--source", default="events")
    sources = {name: source for name, source in find_sources().items() if _has_days(source)}
    name = chosen.parse_known_args(argv)[0].source
    if name not in sources:
        raise UserError(f"--source: found {name}{nearest(name, sources)}; choose {listed([*sources], 'or')}, whose raw "
                        "logs hold sessions with times")  # fmt: skip
    options, overrides = _parser(name, sources).parse_known_args(argv)
    for column, default in NAMED.items() if name == "events" else ():
        setattr(options, column, getattr(options, column) or default)
    if options.withhold and CONTINUE not in options.policies:
        raise UserError(f"--withhold: needs the policy {CONTINUE} to compare with; add it to --policies, or leave this "
                        "out")  # fmt: skip
    continuing = Continuing(options.continue_epochs, options.continue_days, options.continue_rate)
    config = _config(options, overrides)
    path = Path(check_path("--run", str(options.run)))
    runtime.start()
    given = {one.name: vars(options)[one.name] for one in fields(Cleaning) if one.name in options}
    cleaning = Cleaning(**given | {"test_days": 0})
    machine = {"memory_limit": options.memory_limit, "threads": options.threads}
    with owned(path, "replays here", "choose another --run"):
        work = Work(path, _record(options, config), options.overwrite)
        log = DayLog(path / "log.parquet", cleaning, machine)
        names = (*dict.fromkeys(options.policies), *((PARTIAL, REJOINED) if options.withhold else ()))
        replay = Replay(config, continuing, log, work, options.days, names, options.k, options.withhold)
        with work.begin():
            if not log.file.exists():
                for note in log.write(sources[name], options):
                    say("note", note)
            days = replay.last_days()
        replay.run(days)
        text = " ".join(["python -m jaxrec.replay", *map(shlex.quote, argv)])
        print(write_pages(replay, text))


def _config(options: Namespace, overrides: Sequence[str]) -> Config:
    """The configuration of a run of all days before one: nothing is held out, as the last days matter most."""
    config = configuration.load(options.config, [*overrides, "--data.path", "replay"])
    if config.model.task != "sessions":
        raise UserError(f"--config {options.config}: {config.model.name} is no model of sessions, which replay is for; "
                        "choose another")  # fmt: skip
    for section, field in (("data", "validation_fraction"), ("training", "early_stopping")):
        if value := getattr(getattr(config, section), field):
            say("note", f"{section}.{field} is 0 instead of {value}: each run is trained on all days before its own")
            config = with_fields(config, section, **{field: type(value)(0)})
    return config


def _record(options: Namespace, config: Config) -> dict[str, Any]:
    """What must stay the same while a replay goes on."""
    free = ("config", "run", "overwrite", "k", "memory_limit", "threads")
    given = {name: value for name, value in vars(options).items() if name not in free}
    return {"options": given, "config": config.model_dump(mode="json")}


def _has_days(source: Any) -> bool:
    """Whether a source reads raw logs of sessions with times."""
    if source.KIND != "sessions" or getattr(source, "SPLIT", None) == LEAVE_ONE_OUT:
        return False
    parser = Parser()
    source.add_arguments(parser)
    return "--raw" in parser.format_usage()


def _parser(name: str, sources: dict[str, Any]) -> argparse.ArgumentParser:
    source = sources[name]
    parser = Parser(prog="python -m jaxrec.replay", description=DESCRIPTION,
                    usage="python -m jaxrec.replay --config FILE --raw PATH --days N --run DIR [options]\n"
                    "                               [--section.field VALUE ...]")  # fmt: skip
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="YAML file of a model of sessions")
    add("--run", type=Path, required=True, metavar="DIR", help="the directory of the replay")
    add("--days", type=ranged(int, 1, MOST), required=True, metavar="N", help="how many days to replay: the last ones "
        "on which there are sessions")  # fmt: skip
    add("--k", type=ranged(int, 1, MOST), default=20, metavar="K", help="cut-off of recall and MRR (default: 20)")
    add("--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME",
        help=f"of {', '.join(POLICIES)} (default: all)")  # fmt: skip
    add("--continue-epochs", type=ranged(int, 1, MOST), default=EPOCHS, metavar="N",
        help=f"epochs of a run that continues another one (default: {EPOCHS})")  # fmt: skip
    add("--continue-days", type=ranged(int, 1, MOST), default=DAYS, metavar="N",
        help=f"the last so many days that it trains on, of those before (default: {DAYS})")  # fmt: skip
    add("--continue-rate", type=ranged(float, 0.0), metavar="R", help="its learning rate (default: as configured)")
    add("--withhold", type=ranged(float, 0.0, 0.9), default=0.0, metavar="F", help="also withhold this share of the "
        "items from a further base run, and continue from it: what new items cost old ones (default: 0)")  # fmt: skip
    add("--overwrite", action="store_true", help="delete the replay first, if there is one")
    log = parser.add_argument_group(f"the log, as to prepare {name}")
    log.add_argument("--source", choices=[*sources], default="events", help="what reads it (default: events)")
    source.add_arguments(log)
    for action in parser._actions:
        if action.dest in NAMED and name == "events":
            action.required, action.help = False, f"{action.help} (default {action.dest})"
    add_cleaning(parser, Cleaning(**getattr(source, "DEFAULTS", {})), typed=False, timed=True, split=False)
    machine = parser.add_argument_group("machine (the result does not depend on these)")
    machine.add_argument("--memory-limit", metavar="SIZE", help="of reading, such as 2GB (default: half the machine's)")
    machine.add_argument("--threads", type=ranged(int, 1, MOST), metavar="N", help="default: one per processor")
    return parser


if __name__ == "__main__":
    sys.exit(command(main))

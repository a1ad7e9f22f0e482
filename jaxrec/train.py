"""python -m jaxrec.train: THE loop. It reads from top to bottom; each block of steps is one compiled call."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jax

from jaxrec import config as configuration
from jaxrec.cli import hosts as processes
from jaxrec.cli import runtime
from jaxrec.cli.command import Parser, command, make_callable, progress, say, tell
from jaxrec.cli.lock import owned
from jaxrec.cli.text import check_path
from jaxrec.config import Config
from jaxrec.data.dataset import open_dataset
from jaxrec.errors import UserError
from jaxrec.metrics.clicks import higher_is_better
from jaxrec.ops import hosts, parallel
from jaxrec.plots.pictures import learning_curve
from jaxrec.run import create_run, resume_run
from jaxrec.tasks.base import cutoffs, fit_cutoffs, make_task
from jaxrec.tasks.start import note_start, open_source, rows_before, taken_over
from jaxrec.training.block import Training
from jaxrec.training.checkpoint import Checkpoints
from jaxrec.training.hosts import await_file, check_alike, meet, together
from jaxrec.training.state import rows_of
from jaxrec.training.telemetry import Clock, Log, Meter, Sums, Unlogged, Waited, length_without_end, mean, read_log


@dataclass
class Position:
    """Where a run stands, as the host knows it; saved beside the state."""

    epoch: int = 0  # of the next block
    block: int = 0
    sums: Sums = field(default_factory=lambda: {"window": [0.0, 0], "epoch": [0.0, 0]})  # losses and pairs since then
    best: float | None = None  # validation metric
    best_epoch: int = 0  # 0: none yet
    metrics_bytes: int = 0  # size of metrics.jsonl
    seconds: dict[str, float] = field(default_factory=dict)  # the clock
    finished: bool = False


Report = Callable[[int, dict[str, float]], bool]


def train(
    config: Config | str | Path, path: str | Path, resume: bool = False, overwrite: bool = False,
    report: Report | None = None, over: Callable[[], bool] | None = None, start_from: str | Path | None = None,
) -> None:  # fmt: skip
    """Train the run in the directory ``path`` to its end, or until SIGTERM or Ctrl-C: they save and raise SystemExit
    (143 or 130). ``resume`` goes on from the last checkpoint, ``overwrite`` deletes the run first, if there is one.
    ``report`` is called with the epoch and its metrics after each validation, after a restart perhaps again; True ends
    the run there (reason ``stopped`` in ``metrics.jsonl``). ``over`` is asked after each block whether the time is out:
    then the run is saved, and SystemExit raised (142), as by a signal. A new run takes weights, rows of known ids and
    the optimizer's state over from the run ``start_from`` (``jaxrec.tasks.start``). Of several processes that
    ``jax.distributed`` connects all have to call this; the first one writes, and they stop together."""
    config = configuration.load(config) if isinstance(config, (str, Path)) else config
    path = Path(check_path("the run directory", str(path)))
    with _signals_noted() as stopped, _owned_by_first(path):
        ended = stopped if over is None else lambda: stopped() or (signal.SIGALRM if over() else 0)
        _train(config, path, resume, overwrite, report, ended, start_from)


def _train(
    config: Config, path: Path, resume: bool, overwrite: bool, report: Report | None, stopped: Callable[[], int],
    start_from: str | Path | None,
) -> None:  # fmt: skip
    # ---- data and model: the task, with its feed and its validation ------------------------------------------------
    with together():
        dataset = open_dataset(config.data.path)
        config = fit_cutoffs(config, dataset)
        settings, metric = config.training, config.training.metric
        task = make_task(config, dataset)
        model, feed, mesh = task.model, task.feed, task.feed.mesh
        begun = resume and Checkpoints(path).last("latest") >= 0  # goes on by itself, whatever becomes of the other
        source = None if start_from is None or begun else open_source(start_from, path, config, dataset)
        old_rows = rows_before(path, resume, begun, source, model)
        training = Training(config, model, feed, old_rows=old_rows)
        constants = training.constants(task.constants)
        # What is restored takes the place of a state that is not made: there is no room for two of a large catalogue.
        state = (
            training.state_like() if begun
            else training.begin() if source is None else taken_over(training.begin(), source, config)
        )  # fmt: skip
    options = (("--resume", resume), ("--overwrite", overwrite), (f"--start-from {start_from}", start_from))
    check_alike(config, dataset, task.copied, " ".join([f"--run {path}", *(name for name, given in options if given)]))

    # ---- run directory, and the state to start from ----------------------------------------------------------------
    with together():
        kept = task.kept if source is None else task.kept | source.kept
        if hosts.first() and resume:
            resume_run(path, config, dataset, kept, task.copied)
        elif hosts.first():
            create_run(path, config, dataset, overwrite, kept, task.copied)
    with together():
        await_file(path / "config.yaml")
    checkpoints = Checkpoints(path, rows_of(model))
    position = Position()
    if (found := checkpoints.restore(state)) is not None:
        state, position = training.placed(found[0]), Position(**found[1])
    elif begun:
        state = training.begin()
    if position.finished and position.epoch < settings.epochs and (length := length_without_end(path)) is not None:
        position.finished, position.metrics_bytes = False, length  # more epochs were asked for than it was begun with
    position = Position(**hosts.said(asdict(position))[0])

    def draw() -> None:
        if hosts.first():
            learning_curve(read_log(path), metric, path / "learning_curve.png")

    if position.finished:
        draw()  # killed before it?
        more = "raise training.epochs, where nothing stopped it early, or " if config.extends else ""
        tell(f"{path}: already trained to its end; for more epochs {more}train another --run")
        return
    tell(f"{path}: {task.size}, {feed.shape.lanes} a step, {feed.shape.used:,} steps an epoch; "
         f"{f'{task.judge.targets:,} to validate' if task.judge else 'no validation'}"
         f"{'' if mesh is None else f'; on {mesh.size} devices'}"
         f"{f' of {jax.process_count()} processes' if hosts.several() else ''}"
         f"{f'; resuming at step {int(state.step)}' if found else ''}")  # fmt: skip
    if task.judge is None:
        say("note", "no validation data, so nothing tells when more epochs do harm; unless the configuration's epochs "
            "were chosen on this data, set data.validation_fraction and training.early_stopping")  # fmt: skip
    note_start(config, source, old_rows)
    clock = Clock(position.seconds)
    log = Log(path, position.metrics_bytes, int(state.step)) if hosts.first() else Unlogged()

    if source is not None and found is None:
        tell(f"{path}: begins with the weights of {start_from}: {source.summary()}")
        with clock.part("save"):
            checkpoints.save(state, asdict(position))

    def save() -> None:
        with clock.part("save"):
            position.metrics_bytes, position.seconds = log.sync(), clock.seconds
            checkpoints.save(state, asdict(position))
        if number := max(hosts.said(stopped())):
            tell(f"{path}: stopped; saved at step {int(state.step)}, --resume goes on from there")
            raise SystemExit(128 + number)

    # ---- compile, kept apart from training -------------------------------------------------------------------------
    with clock.part("compile"), progress("train: compiling"):
        compiled = training.block.lower(state, constants, feed.like()).compile()

    # ---- epochs ----------------------------------------------------------------------------------------------------
    while not position.finished:
        first_block, begin = position.block, clock.lap()
        saved = begin
        title = f"train: epoch {position.epoch + 1} of {settings.epochs}"
        with progress(title, feed.shape.blocks - first_block) as advance:
            meter = Meter(log, settings.log_every, training.schedule, advance, position.sums)
            blocks, largest = Waited(feed.epoch(position.epoch, first_block)), hosts.Largest(mesh)
            for block in blocks:
                # This returns at once. While the device works on the block, the host reads the one before.
                state, stats = compiled(state, constants, block)
                parallel.take_turns(stats, mesh)
                first_step = position.epoch * feed.shape.used + position.block * feed.shape.steps
                meter.push(stats, position.epoch, position.block, first_step)
                position.block += 1
                due = largest(stopped() or clock.lap() - saved >= settings.save_every)
                if due and position.block < feed.shape.blocks:
                    meter.drain()
                    state = training.averaged(state, position.epoch, within=True)
                    save()
                    saved = clock.lap()
            meter.drain()

        # ---- after an epoch: log, validate, save -------------------------------------------------------------------
        seconds = clock.lap() - begin
        share = (1 - first_block / feed.shape.blocks) / seconds
        speed = {"steps_per_s": share * feed.shape.used, "events_per_s": share * feed.pairs}
        loss, step = mean(position.sums["epoch"]), int(state.step)
        position.epoch, position.block, position.sums["epoch"] = position.epoch + 1, 0, [0.0, 0]
        log.write("epoch", step, epoch=position.epoch, loss=loss, **speed, input_wait_share=blocks.seconds / seconds)
        summary = f"epoch {position.epoch}: loss {loss:.4f}, {speed['events_per_s']:,.0f} events/s"
        asked, state = False, training.averaged(state, position.epoch)
        if task.judge is not None:
            with clock.part("evaluate"), progress(f"train: validation after epoch {position.epoch}"):
                # Each process judges by its own copy of the weights: none waits longer than for its own work.
                metrics = hosts.said(task.judge(training.served(state), cutoffs(config)).metrics)[0]
            log.write("validation", step, epoch=position.epoch, **metrics)
            value, best = metrics[metric], position.best
            summary += f", validation {metric} {value:.4f}"
            if best is None or (value > best if higher_is_better(metric) else value < best):
                position.best, position.best_epoch = value, position.epoch
                with clock.part("save"):
                    checkpoints.save_best(state, {"epoch": position.epoch, **metrics})
            asked = any(hosts.said(report is not None and report(position.epoch, metrics)))
        print(summary, flush=True)
        early = 0 < settings.early_stopping <= position.epoch - position.best_epoch
        over = position.epoch == settings.epochs
        position.finished = early or over or asked
        if position.finished:
            reason = "early stopping" if early else "all epochs" if over else "stopped"
            if settings.average_epochs and position.epoch <= settings.epochs - settings.average_epochs:
                say("note", f"training.average_epochs: the last {settings.average_epochs} of {settings.epochs} epochs "
                    "were not begun, so no weights are averaged")  # fmt: skip
            times = {f"seconds_{name}": value for name, value in clock.seconds.items()}
            if task.judge is not None and position.best_epoch < position.epoch:
                say("note", f"validation {metric} was best after epoch {position.best_epoch} ({position.best:.4f}), "
                    "which is what evaluates and recommends")  # fmt: skip
            log.write("end", step, epoch=position.epoch, best_epoch=position.best_epoch, reason=reason, **times)
        save()

    # ---- the picture, and where the time went ----------------------------------------------------------------------
    log.close()
    draw()
    tell(f"{path}: done; " + ", ".join(f"{name} {value:.1f} s" for name, value in clock.seconds.items()))


@contextmanager
def _owned_by_first(path: Path) -> Iterator[None]:
    """Own the run directory; of several processes the first one does, for all."""
    with ExitStack() as stack:
        with together():
            if hosts.first():
                stack.enter_context(owned(path, "trains this run", "choose another --run"))
        yield


@contextmanager
def _signals_noted() -> Iterator[Callable[[], int]]:
    """Inside, SIGTERM and the first Ctrl-C are noted; the function yielded gives the number of the one that came, or 0.
    A second Ctrl-C interrupts at once. Only a main thread can catch signals."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str]) -> None:
    """The command line of ``python -m jaxrec.train``."""
    parser = Parser(
        prog="python -m jaxrec.train",
        usage="python -m jaxrec.train --config FILE [--run DIR] [--resume | --overwrite]\n"
        "                              [--start-from RUN] [--section.field VALUE ...]\n"
        "                              [--distributed WHERE [--rank RANK --count COUNT]]",
        description="Train a model as a configuration file says, into a run directory.",
        add_help=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, such as configs/gru4rec_synthetic.yaml")
    parser.add_argument("--run", metavar="DIR", help="run directory (default: checkpoints/ and the name of the file)")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint, bit for bit")
    parser.add_argument("--overwrite", action="store_true", help="delete the run first, if there is one")
    parser.add_argument("--start-from", metavar="RUN", help="begin with the weights of another run of this "
                        "model: rows of ids that both know, and the optimizer's state")  # fmt: skip
    processes.add_options(parser)
    parser.add_argument("-h", "--help", action="store_true", help="with --config or --model.name: the model's fields")
    options, overrides = parser.parse_known_args(argv)
    if options.help:
        parser.epilog = configuration.field_help(options.config, overrides)
        parser.print_help()
        parser.exit()
    if options.config is None:
        configuration.read_overrides(overrides, {})
        parser.error("--config: missing; name a YAML file, such as configs/gru4rec_synthetic.yaml")
    if options.resume and options.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    with processes.joined(ranks := processes.read_options(options)):
        meet(ranks)
        with together():
            config = configuration.load(options.config, overrides)
        runtime.start()
        file = Path(options.config).absolute()
        name = file.parent.name if file.name == "config.yaml" else file.stem  # the former is that of a run
        train(config, options.run or Path("checkpoints") / name, options.resume, options.overwrite,
              start_from=options.start_from)  # fmt: skip


make_callable(__name__)

if __name__ == "__main__":
    sys.exit(command(main))

"""What a process that compiles for a target is asked: the plan of a configuration, with what would help where it does
not fit, and the programs of the benchmark's models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from jaxrec import config as configuration
from jaxrec.benchmarks.sizes import SIZES, configured, prepare
from jaxrec.config import Config
from jaxrec.errors import UserError
from jaxrec.losses.softmax import RESIDENT
from jaxrec.programs import private, refused, workload
from jaxrec.programs.plan import Place, compile_block, memory_of, told
from jaxrec.programs.targets import Target
from jaxrec.programs.workload import Workload

SMALL = 16  # MiB of scores that are held at once, tried where the loss lets it be chosen
BATCHES = 4  # that are compiled to find the largest one that fits


def plan(target: Target, file: str, overrides: Sequence[str], sizes: workload.Sizes, remedy: bool = True) -> Any:
    """A configuration's plan on a target; ``sizes``: where there is no data set."""
    config = configuration.load(file, overrides)
    place = Place.of(target, private.devices(target), config)
    found = planned(config, place, sizes)
    if remedy and not found["fits"]:
        found["remedies"] = remedies(config, place, sizes, found)
    return found


def benchmark(target: Target, model: str, options: dict[str, Any]) -> Any:
    """The plan of a model of the benchmark at one of its sizes, with the options that its table shows."""
    size, asked = SIZES[model], argparse.Namespace(**options)
    config = configured(model, asked)
    place = Place.of(target, private.devices(target), config)
    prepared = prepare(model, asked, workload.Planned(place.mesh))
    work = Workload(config, prepared.model, prepared.feed, workload.shapes(prepared.constants), prepared.items, 0)
    compiled = compile_block(work, place)
    shown = {name: options[name] for name in size.rows if name in ("hard", "head")}
    return told(work, place, compiled, memory_of(compiled, work)) | shown


def planned(config: Config, place: Place, sizes: workload.Sizes) -> dict[str, Any]:
    """The plan; of what the TPU's compiler refuses, from smaller sizes where sizes are given."""
    work = workload_of(config, place, sizes)
    if sizes and place.target.platform == "tpu" and refused.too_large(work, place):
        return refused.from_smaller(config, place, sizes, work)
    try:
        compiled = compile_block(work, place)
    except Exception as error:
        if not private.out_of_memory(error):
            raise
        if not sizes:
            raise UserError(f"--target {place.target.name}: its compiler refuses the block, which does not fit "
                            f"({str(error).splitlines()[0]}); lower training.batch_size, or plan it with "
                            "--items") from None  # fmt: skip
        return refused.from_smaller(config, place, sizes, work)
    return told(work, place, compiled, memory_of(compiled, work))


def workload_of(config: Config, place: Place, sizes: workload.Sizes) -> Workload:
    """Of the data set, or of the sizes."""
    if sizes:
        return workload.of_sizes(config, sizes, place.mesh)
    return workload.of_data(config, place.mesh)


def remedies(config: Config, place: Place, sizes: workload.Sizes, found: dict[str, Any]) -> list[str]:
    """What would make it fit, tried out; each is a sentence."""
    usable, parts = found["usable_bytes"], found["memory"]
    whole = sum(parts.get(name, 0) for name in ("parameters", "tables", "optimizer", "averages", "constants", "data"))
    said = list[str]()

    def tried(what: str, config: Config) -> bool:
        try:
            other = planned(config, place, sizes)
        except UserError as error:
            said.append(f"{what}: {error}")
            return False
        fits = f"fits, {other['peak_bytes'] / 1e9:.2f} GB" if other["fits"] else (
            f"does not fit, {other['peak_bytes'] / 1e9:.2f} GB")  # fmt: skip
        said.append(f"{what}: {fits}")
        return bool(other["fits"])

    # Neither a batch nor the loss changes what lies there all the time, or what it takes to make the state.
    least = max(whole, found["making_bytes"])
    batch, n = config.training.batch_size, found["devices"]
    for _ in range(BATCHES if least < usable else 0):
        batch = batch // 2 // n * n
        if batch < max(n, getattr(config.model, "window", 1) or 1):
            break
        if tried(f"training.batch_size {batch}", _with_batch(config, batch)):
            break
    if whole >= usable:
        said.append(f"no batch fits: tables, optimizer, constants and data alone take {whole / 1e9:.2f} GB")
    elif least >= usable:
        said.append(f"no batch fits: to make the state takes {least / 1e9:.2f} GB, a block "
                    f"{found['total_bytes'] / 1e9:.2f} GB")  # fmt: skip
    for what, other in _others(config, least < usable):
        tried(what, other)
    shared = found["total_bytes"] - whole
    said.append(f"more devices: by mesh.model they share rows of tables; by mesh.data only the {shared / 1e9:.2f} GB "
                "beside what lies there all the time")  # fmt: skip
    if sizes and found["peak_bytes"] > 0:
        said.append(f"about {_below(sizes['items'] * usable / found['peak_bytes']):,} items fit instead of "
                    f"{sizes['items']:,}")  # fmt: skip
    return said


def _others(config: Config, loss: bool) -> list[tuple[str, Config]]:
    """Configurations that take less, and what is changed in each; ``loss``: whether its memory matters."""
    values, found = config.model_dump(mode="json"), list[tuple[str, Config]]()

    def changed(*pairs: tuple[str, str, Any], drop: str = "") -> None:
        new = {section: dict(fields) for section, fields in values.items()}
        if drop:
            new[drop] = {}
        for section, name, value in pairs:
            new[section][name] = value
        with suppress(UserError):  # another section does not go with it
            found.append((", ".join(f"{a}.{b} {c}" for a, b, c in pairs), configuration.parse(new)))

    if loss and "memory" in values["loss"] and (config.loss.memory or RESIDENT) > SMALL:
        changed(("loss", "memory", SMALL))
    if config.loss.name == "softmax":
        changed(("loss", "name", "cross_entropy"), drop="loss")
    if values["loss"].get("mask") == "positives":
        changed(("loss", "mask", "duplicates"))
    if getattr(config.model, "table", "") == "dense":
        changed(("model", "table", "rows"), ("training", "average", 0.0))
    if config.optimizer.tables == "same":
        changed(("optimizer", "tables", "rowwise_adagrad"))
    if config.training.average or config.training.average_epochs:
        changed(("training", "average", 0.0), ("training", "average_epochs", 0))
    return found


def _with_batch(config: Config, batch: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"batch_size": batch})})


def _below(number: float) -> int:
    """The number with two digits, rounded down: what is planned beside the tables does not shrink with them."""
    step = 10 ** max(0, len(str(int(number))) - 2)
    return int(number) // step * step

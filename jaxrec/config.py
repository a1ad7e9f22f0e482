"""The experiment as frozen, validated types: data, model, loss, optimizer, training, evaluation.

A YAML file gives the values, ``--section.field value`` overrides them, and the resolved result is written to the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jaxrec.errors import UserError, nearest

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]


MODELS_WITH = {
    "layers": ("gru4rec", "narm"), "embedding": ("gru4rec",), "attention": ("narm",),
    **dict.fromkeys(("blocks", "heads"), ("sasrec",)),
    **dict.fromkeys(("window", "stride", "temperature", "init_std"), ("narm", "sasrec")),
}  # fmt: skip
"""Fields of the model section that only some models have."""

SAMPLED = ("cross_entropy", "bpr", "top1", "bpr_max", "top1_max")
LOSSES_WITH = {
    **dict.fromkeys(("n_sample", "sample_alpha", "final_activation", "activation_alpha"), SAMPLED),
    **dict.fromkeys(("label_smoothing", "prior", "memory", "precision"), ("softmax",)),
    "logq": ("cross_entropy",), "bpreg": ("bpr_max",),
}  # fmt: skip
"""Fields of the loss section that only some losses have."""

OPTIMIZERS_WITH = {
    "momentum": ("adagrad", "sgd"), "epsilon": ("adagrad", "adam"),
    **dict.fromkeys(("beta1", "beta2", "weight_decay"), ("adam",)),
}  # fmt: skip
"""Fields of the optimizer section that only some optimizers have."""


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class DataConfig(Section):
    path: str
    """Dataset directory, as written by python -m jaxrec.prepare."""
    validation_fraction: Fraction = 0.0
    """Share of the training targets, the most recent, held out for validation (0: train on everything)."""
    order: Literal["random", "time"] = "random"
    """Order of the sessions: shuffled anew each epoch, or by time (within each lane, or from step to step)."""
    half_life: Annotated[float, Field(gt=0.0)] | None = None
    """Days after which a training session weighs half as much in the loss (null: all weigh the same)."""
    device_memory: Annotated[int, Field(ge=0)] = 2048
    """The training split stays on the device when it takes less than this (MiB); otherwise blocks are streamed."""


class ModelConfig(Section):
    name: Literal["gru4rec", "narm", "sasrec"] = "gru4rec"
    """The model."""
    layers: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (100,)
    """Units of each GRU layer, from input to output (narm: one layer)."""
    embedding: Literal["constrained", "separate", "onehot"] = "constrained"
    """Input of gru4rec: one table for input and output, a table of its own, or one-hot (a table of gate inputs)."""
    embedding_dim: Count = 100
    """Width of the item vectors of narm and sasrec, and of gru4rec's input table where embedding is 'separate'."""
    dropout_embedding: Fraction = 0.0
    """Dropout on the input vectors (with one-hot input: on the first layer's output, as in the authors' code)."""
    dropout_hidden: Fraction = 0.0
    """Dropout on the output of each GRU layer (with one-hot input from the second layer on); narm: on the session's
    representation before the decoder; sasrec: in each block."""
    attention: Literal["sum", "softmax"] = "sum"
    """Weights of narm's local encoder: unnormalised, as published, or normalised to sum to 1."""
    blocks: Annotated[int, Field(ge=1, le=16)] = 2
    """Self-attention blocks of sasrec."""
    heads: Annotated[int, Field(ge=1, le=64)] = 1
    """Attention heads of sasrec; they share embedding_dim."""
    window: Annotated[int, Field(ge=1, le=4096)] = 20
    """narm and sasrec: a score depends on the last so many clicks."""
    stride: Annotated[int, Field(ge=1)] = 1
    """narm and sasrec: in training, targets of a session beyond the window are scored so many at a time. At 1 each sees
    a whole window; at s some see s - 1 clicks less, and a long session costs s times less."""
    temperature: Annotated[float, Field(gt=0.0)] | None = None
    """narm and sasrec: scores are this times the cosine of session and item vectors (null: inner products)."""
    init_std: Annotated[float, Field(gt=0.0)] | None = None
    """narm and sasrec: standard deviation of the initial item vectors (null: 1 / sqrt(embedding_dim))."""


class LossConfig(Section):
    name: Literal["cross_entropy", "bpr", "top1", "bpr_max", "top1_max", "softmax"] = "cross_entropy"
    """softmax: exact cross-entropy over the whole catalogue (narm, sasrec). The others rank against the step's targets
    and n_sample drawn items; cross_entropy with logq 1 is the sampled softmax."""
    n_sample: Annotated[int, Field(ge=0, le=100_000)] = 2048
    """Negatives drawn for each step and shared by its lanes, beside the other lanes' targets."""
    sample_alpha: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Negatives are drawn in proportion to popularity ** sample_alpha (0: uniform, 1: popularity)."""
    logq: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Strength of the logQ correction of cross-entropy for how often each item is a negative (0: off, 1: full)."""
    bpreg: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the score regularisation of bpr_max."""
    final_activation: Literal["linear", "relu", "tanh", "elu", "selu", "leaky_relu"] = "linear"
    """Applied to the training scores. Ranking uses the scores before it."""
    activation_alpha: Annotated[float, Field(gt=0.0)] = 1.0
    """Parameter of elu, or the negative slope of leaky_relu, where it must be below 1."""
    label_smoothing: Fraction = 0.0
    """softmax: share of the target's probability that is spread evenly over the catalogue."""
    prior: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """softmax: log popularity times this is added to the training scores (logit adjustment), not to those that rank."""
    memory: Count = 64
    """softmax: bound on the block of scores in MiB; the step is worked through in blocks of targets, or of items."""
    precision: Literal["float32", "device", "bfloat16"] = "float32"
    """softmax: what its matrix products multiply: float32; float32 as the device does it fastest (TF32 or bfloat16 on
    accelerators); bfloat16. They add up in float32."""


class OptimizerConfig(Section):
    name: Literal["adagrad", "adam", "sgd"] = "adagrad"
    """On embedding tables adam is the lazy Adam of the field, only rows that were read move; under softmax all do."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.05
    """Step size at its highest."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Momentum of adagrad and sgd."""
    epsilon: Annotated[float, Field(gt=0.0)] | None = None
    """Inside the root for adagrad (default 1e-6), outside for adam (default 1e-8)."""
    beta1: Fraction = 0.9
    """First-moment decay of adam."""
    beta2: Fraction = 0.999
    """Second-moment decay of adam."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to final_fraction over the planned epochs."""
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Where a falling schedule ends, as a share of learning_rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled decay of all weights (AdamW), times the learning rate; with adam and the softmax loss only."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Clip the gradient to this global norm, over dense parameters and table rows together (null: off)."""


class TrainingConfig(Section):
    epochs: Count = 10
    """Passes over the training split."""
    batch_size: Annotated[int, Field(ge=1, le=32_768)] = 128
    """gru4rec: lanes, sessions that are trained side by side. narm, sasrec: targets a step, at most."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Everything random is a function of it."""
    steps_per_block: Annotated[int, Field(ge=1, le=10_000)] = 200
    """At most so many steps in one compiled call. The result does not depend on it."""
    log_every: Count = 10
    """Blocks between two lines of training progress."""
    save_every: Annotated[float, Field(ge=0.0)] = 60.0
    """Seconds between two checkpoints within an epoch (0: every block); each epoch's end saves as well."""
    average: Fraction = 0.0
    """Decay per step of a moving average of all weights, which then evaluates and serves (0: off); softmax only."""
    early_stopping: Annotated[int, Field(ge=0)] = 0
    """Stop after so many epochs without a better validation metric (0: never)."""
    metric: Annotated[str, Field(pattern=r"^(recall|mrr|ndcg|hit_rate)@[1-9][0-9]*$")] = "recall@20"
    """The validation metric that names the best epoch."""


class EvaluationConfig(Section):
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (5, 10, 20)
    """Cut-offs of the metrics."""
    ties: Literal["conservative", "standard", "median"] = "conservative"
    """Rank among equal scores: last, first or in the middle."""
    batch_size: Count = 512
    """Sessions that are stepped through side by side; narm, sasrec: targets a step."""
    memory: Count = 64
    """Bound on the block of scores in MiB."""


class Config(Section):
    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _parts_agree(self) -> Config:
        if self.loss.final_activation == "leaky_relu" and self.loss.activation_alpha >= 1.0:
            raise ValueError("loss.activation_alpha: the negative slope of leaky_relu; give one below 1, such as 0.1")
        if self.training.batch_size == 1 and not self.loss.n_sample and self.loss.name != "softmax":
            raise ValueError("loss.n_sample: 0 leaves a single lane without negatives; draw some or add lanes")
        return self

    @model_validator(mode="after")
    def _the_model_has_it(self) -> Config:
        name, softmax = self.model.name, self.loss.name == "softmax"
        for where, table in (("model", MODELS_WITH), ("loss", LOSSES_WITH), ("optimizer", OPTIMIZERS_WITH)):
            section = getattr(self, where)
            for field, owners in table.items():
                value, of = getattr(section, field), section.name
                if of not in owners and value != type(section).model_fields[field].default:
                    raise ValueError(f"{where}.{field}: found {value!r}, but it belongs to {' and '.join(owners)}; "
                                     f"leave it out for {of}")  # fmt: skip
        if name == "gru4rec" and softmax:
            raise ValueError("loss.name: gru4rec ranks against sampled items; for softmax choose narm or sasrec")
        if name == "gru4rec" and self.data.half_life:
            raise ValueError("data.half_life: gru4rec weighs all sessions alike; leave it out or choose narm or sasrec")
        if name == "narm" and len(self.model.layers) != 1:
            raise ValueError(f"model.layers: narm has one GRU, found {len(self.model.layers)} layers; give one number")
        if name == "sasrec" and self.model.embedding_dim % self.model.heads:
            raise ValueError(f"model.heads: {self.model.heads} do not divide model.embedding_dim "
                             f"{self.model.embedding_dim}; choose a divisor")  # fmt: skip
        if name != "gru4rec" and self.training.batch_size < self.model.window:
            raise ValueError(f"training.batch_size: {self.training.batch_size} targets a step do not hold model.window "
                             f"{self.model.window}; raise the one or lower the other")  # fmt: skip
        if self.model.stride > self.model.window:
            raise ValueError(f"model.stride: {self.model.stride} is more than model.window {self.model.window}")
        if not softmax:
            for field, value in (("optimizer.weight_decay", self.optimizer.weight_decay),
                                 ("training.average", self.training.average)):  # fmt: skip
                if value:
                    raise ValueError(f"{field}: needs loss.name softmax, found {self.loss.name}; set it to 0")
        return self


def load(file: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply ``--section.field value`` pairs, and validate.

    Raises:
        UserError: naming the field, what was found, what is allowed, and the nearest name.
    """
    path = Path(file)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: cannot read the configuration ({reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not YAML ({getattr(error, 'problem', 'unreadable')})") from None
    sections = values.values() if isinstance(values, dict) else [None]
    if not all(isinstance(part, dict) and all(isinstance(name, str) for name in part) for part in sections):
        raise UserError(f"{path}: expected sections with fields, such as 'data:' with 'path: …' under it")
    for name, value in _pairs(overrides):
        section, _, field = name.partition(".")
        values.setdefault(section, {})[field] = value
    return parse(values, source=str(path))


def parse(values: dict[str, Any], source: str = "configuration") -> Config:
    """Validate a nested dictionary.

    Raises:
        UserError: one line for the first field that is wrong.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None
    for section, part in values.items():
        for name, value in part.items() if isinstance(part, dict) else ():
            if any(isinstance(one, bool) for one in (value if isinstance(value, list) else [value])):
                raise UserError(f"{source}: {section}.{name}: found {value}; input should be a number")  # not 1 or 0
    return config


def dump(config: Config) -> str:
    """The configuration as YAML that ``load`` reads back to an equal ``Config``."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def fields() -> dict[str, tuple[Any, str]]:
    """Every ``section.field`` with its default (None where it is required) and its description."""
    table = {}
    for section, info in Config.model_fields.items():
        for name, field in info.annotation.model_fields.items():  # type: ignore[union-attr]
            table[f"{section}.{name}"] = (None if field.is_required() else field.default, field.description or "")
    return table


def choices(name: str) -> tuple[str, ...]:
    """The names that ``section.field`` allows; empty where it is no choice of names."""
    section, field = name.split(".")
    annotation = Config.model_fields[section].annotation.model_fields[field].annotation  # type: ignore[union-attr]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _pairs(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """``["--a.b", "1", "--c.d=2"]`` as ``[("a.b", 1), ("c.d", 2)]``; several values make a list."""
    pairs: list[tuple[str, list[str]]] = []
    for word in overrides:
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            pairs.append((name, [value] if given else []))
        elif pairs:
            pairs[-1][1].append(word)
        else:
            raise UserError(f"'{word}': expected --section.field value")
    known = fields()
    for name, words in pairs:
        if name not in known:
            same = [field for field in known if field.split(".")[1] == name]  # the section was left out
            hint = f" (did you mean '{same[0]}'?)" if same else nearest(name, known)
            raise UserError(f"--{name}: no such option or field{hint}; --help lists them")
        if not words:
            raise UserError(f"--{name}: a value is missing")
    return [(name, _value(name, words)) for name, words in pairs]


def _value(name: str, words: list[str]) -> Any:
    try:
        values = [yaml.safe_load(word) for word in words]
    except yaml.YAMLError:
        raise UserError(f"--{name}: '{' '.join(words)}' is not a value") from None
    if name == "data.path":  # a directory may be called 2024
        return " ".join(words)
    several = isinstance(fields()[name][0], tuple)
    if several and not (len(values) == 1 and isinstance(values[0], list)):
        return values
    if len(values) > 1:
        raise UserError(f"--{name}: one value expected, found '{' '.join(words)}'")
    return _number(values[0])


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a string; users mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    if problem["type"] == "extra_forbidden":
        known = set(Config.model_fields) if "." not in place else set(fields())
        return f"{place}: no such field{nearest(place, known)}"
    if problem["type"] == "missing":
        return f"{place}: missing; it has no default"
    if problem["type"] == "string_pattern_mismatch":  # there is one: training.metric
        return f"{place}: found {problem['input']!r}; expected recall, mrr, ndcg or hit_rate at a cut-off, as recall@20"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not place or problem["type"] == "value_error":
        return f"{place}: {message}" if place else message
    hint = ""
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        allowed = [word.strip("' ") for word in problem["ctx"]["expected"].replace(" or ", ",").split(",")]
        hint = nearest(problem["input"], allowed)
    return f"{place}: found {problem['input']!r}; {message}{hint}"

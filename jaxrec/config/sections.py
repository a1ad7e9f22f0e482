"""The sections of an experiment that all runs share; models, losses, optimizers and tasks bring more of their own."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jaxrec.cli.text import check_path

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Amount = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0.0)]

LEADING_ZERO = re.compile(r"[-+]?0[0-9_]")
CUTOFF = "@[1-9][0-9]{0,8}"  # of a metric


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true for 1, and 010 for a number, which some read as octal."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        number = str not in (annotation, *get_args(annotation))
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if (isinstance(one, bool) and annotation is not bool) or (
                number and isinstance(one, str) and LEADING_ZERO.match(one.strip())
            ):
                raise PydanticCustomError("number", "input should be a number")
        return value

    def check(self, config: Config) -> None:
        """Refuse what does not fit the other sections, as a ValueError whose message begins with ``section.field:``."""

    @classmethod
    def of(cls, section: Section) -> Self:
        """The section, typed as one of this class, which it has to be."""
        assert isinstance(section, cls), f"{type(section)} is no {cls}"
        return section


SOURCELESS = {"use_attribute_docstrings": False}
"""Of a section made at run time: pydantic would look for its source in every frame, and the frame's in every module."""


class DataConfig(Section):
    path: Annotated[str, AfterValidator(lambda path: check_path("data.path", path))]
    """Dataset directory, as written by python -m jaxrec.prepare."""
    validation_fraction: Fraction = 0.0
    """Share of the training targets, the most recent, held out for validation (0: train on everything); of rows, as
    data.protocol chooses them."""
    device_memory: Amount = 2048
    """The training split stays on the device when it takes less than this (MiB); otherwise blocks are streamed."""


class LossConfig(Section):
    """A loss; its class is found by ``name``, and can be called."""

    name: str


class ModelConfig(Section):
    """A model; the module that ``name`` finds has its class as ``Config``, and what builds it as ``Model``."""

    task: ClassVar[str]  # the module of jaxrec.tasks that trains and evaluates it
    losses: ClassVar[tuple[type[LossConfig], ...]]  # it can be trained with; the first is the default
    sections: ClassVar[dict[str, type[Section]]] = {}  # further fields of other sections
    defaults: ClassVar[dict[str, dict[str, Any]]] = {}  # of other sections' fields, where they differ
    trained: ClassVar[bool] = True  # by the loop; otherwise a command of its own makes its runs
    name: str

    def dense(self, config: Config) -> str:
        """What it takes for all rows of the tables to be updated in every step; empty where they are."""
        return ""


class OptimizerConfig(Section):
    """An optimizer; its class is found by ``name``."""

    name: str
    learning_rate: Positive = 0.05
    """Step size at its highest."""
    tables: Literal["same", "rowwise_adagrad"] = "same"
    """Of the embedding tables: the same, or Adagrad with one accumulator a row."""
    table_learning_rate: Positive = 0.05
    """rowwise_adagrad: its step size at its highest; it follows the same schedule."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to final_fraction over the planned epochs."""
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Where a falling schedule ends, as a share of learning_rate."""
    warmup_steps: Amount = 0
    """Steps over which the learning rate rises linearly from 0."""
    clip_norm: Positive | None = None
    """Clip the gradient to this global norm, over dense parameters and table rows together (null: off)."""

    def check(self, config: Config) -> None:
        if self.tables == "same" and self.table_learning_rate != type(self).model_fields["table_learning_rate"].default:
            raise ValueError(f"optimizer.table_learning_rate: found {self.table_learning_rate}, but optimizer.tables "
                             "is same; set that to rowwise_adagrad, or leave this out")  # fmt: skip

    def parts(self, scale: Any) -> list[Any]:
        """The transformations of optax that a gradient goes through, each by element or by row, as single rows of
        tables go through them too; ``scale`` is the product with the rate."""
        raise NotImplementedError


class TrainingConfig(Section):
    epochs: Count = 10
    """Passes over the training split."""
    batch_size: Annotated[int, Field(ge=1, le=32_768)] = 128
    """Of a step: lanes, sessions that are trained side by side, where the model goes from click to click; targets, at
    most, where it reads windows; rows."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Everything random is a function of it."""
    steps_per_block: Annotated[int, Field(ge=1, le=10_000)] = 200
    """At most so many steps in one compiled call. The result does not depend on it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrix products multiply in training, and keep for the derivative: bfloat16 is what accelerators multiply
    fastest. Parameters and sums stay float32, and so do evaluation and serving. float32 is multiplied as the device
    does it by default (GPUs may take TF32, TPUs bfloat16 passes)."""
    deterministic: bool = False
    """On GPUs, add up floats in a fixed order everywhere, at the price of more kernels (jaxrec/benchmarks/README.md):
    what a run trains then does not depend on chance, and resuming it is exact. CPUs and TPUs always do."""
    log_every: Count = 10
    """Blocks between two lines of training progress."""
    save_every: Annotated[float, Field(ge=0.0)] = 60.0
    """Seconds between two checkpoints within an epoch (0: every block); each epoch's end saves as well."""
    average: Fraction = 0.0
    """Decay per step of a moving average of all weights, which then evaluates and serves (0: off); with dense tables
    only."""
    average_epochs: Amount = 0
    """The mean of all weights at the ends of the last so many epochs, or of all, evaluates and serves (0: off); before
    these, and where training stops before them, it is the weights themselves. Batch statistics are the latest.
    Stochastic weight averaging (Izmailov et al. 2018), section 3.2, by epochs."""
    early_stopping: Amount = 0
    """Stop after so many epochs without a better validation metric (0: never)."""
    metric: Annotated[str, Field(pattern=f"^(recall|mrr|ndcg|hit_rate){CUTOFF}$")] = "recall@20"
    """The validation metric that names the best epoch: recall, mrr, ndcg or hit_rate at a cut-off, as recall@20."""

    def check(self, config: Config) -> None:
        if self.average and (needs := config.model.dense(config)):
            raise ValueError(f"training.average: needs {needs}; set it to 0, or training.average_epochs instead")
        if self.average and self.average_epochs:
            raise ValueError(f"training.average_epochs: found {self.average_epochs} beside training.average "
                             f"{self.average}; set one of them to 0")  # fmt: skip


class StartConfig(Section):
    """Of runs that train --start-from begins; others leave it aside."""

    new_rows: Literal["random", "mean", "category", "text"] = "random"
    """How the rows of tables begin whose ids the other run was not trained on. random: as in any run; mean: the mean of
    the old rows, those of ids that both runs have, of the same table or field; category: of the old rows with the same
    start.attribute; text: the item's name vector, mapped to rows by least squares over the old ones. What has no such
    rows or name takes the mean. Means keep their length, which is less than that of a row: the score of a new item is
    then the mean of the old items' scores, so that it pushes none aside, and comes up later than from a random row."""
    attribute: str | None = None
    """Of category: the attribute of items whose values are the categories, such as c0_name; where data are rows, a
    categorical field of the items or of the users, which then says how new ids of theirs begin."""
    warmup_steps: Amount = 0
    """Steps over which what was taken over, rows and parameters of the network, comes to move in full: an update is
    multiplied by step / warmup_steps, from 0. New rows move in full from the beginning (0: all do)."""

    def check(self, config: Config) -> None:
        if (self.new_rows == "category") != (self.attribute is not None):
            raise ValueError(f"start.attribute: found {self.attribute}, and start.new_rows is {self.new_rows}; "
                             "category needs an attribute, such as c0_name, and nothing else takes one")  # fmt: skip


class EvaluationConfig(Section):
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (5, 10, 20)
    """Cut-offs of the metrics."""
    batch_size: Count = 512
    """Sessions that are stepped through side by side; where the model reads windows, targets a step."""
    memory: Count = 64
    """Bound on the block of scores in MiB."""


class RecommendationConfig(Section):
    """How a run recommends."""


class MeshConfig(Section):
    data: Count | None = None
    """Devices that share a step's lanes, targets or rows (null: all that this machine has, or that all processes of
    --distributed have); with mesh.model groups of so many devices."""
    model: Count = 1
    """Devices over which the rows of tables and of what the optimizer keeps of them are dealt."""


class Config(Section):
    """An experiment. Each is of a subclass whose sections are those of its model, loss, optimizer and task
    (``jaxrec.config.experiment``); where only one kind of a section can stand, ``Kind.of(config.section)`` types it."""

    data: Any  # a DataConfig
    model: Any  # a ModelConfig
    loss: Any  # a LossConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    start: StartConfig
    evaluation: Any  # an EvaluationConfig
    recommendation: Any  # a RecommendationConfig
    mesh: MeshConfig

    @property
    def extends(self) -> bool:
        """Whether a run can be trained for more epochs than it was begun with, and be what it would have been."""
        return bool(self.optimizer.schedule == "constant" and not self.training.average_epochs)

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        for name in type(self).model_fields:
            getattr(self, name).check(self)
        return self

"""The sections of an experiment as frozen, validated types, and which fields belong to which model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    model_validator,
)

from jaxrec.cli.paths import check_path
from jaxrec.config.agreement import check_agreement, defaults_of

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Amount = Annotated[int, Field(ge=0, lt=2**31)]

METRICS = r"^(auc|log_loss|(recall|mrr|ndcg|hit_rate|ndcg_published|hit_rate_published)@[1-9][0-9]{0,8})$"


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class DataConfig(Section):
    path: Annotated[str, AfterValidator(lambda path: check_path("data.path", path))]
    """Dataset directory, as written by python -m jaxrec.prepare."""
    validation_fraction: Fraction = 0.0
    """Share of the training targets, the most recent, held out for validation (0: train on everything); of rows, as
    data.protocol chooses them."""
    order: Literal["random", "time"] = "random"
    """Order of the sessions: shuffled anew each epoch, or by time (within each lane, or from step to step)."""
    half_life: Annotated[float, Field(gt=0.0)] | None = None
    """Days after which a training session weighs half as much in the loss (null: all weigh the same)."""
    protocol: Literal[
        "rows", "paper", "temporal", "leave_one_out", "leave_one_random", "cold_users", "cold_items", "in_sample"
    ] = "rows"
    """autoint, two_tower: the test split is a random share of the rows; the same without the rating below the
    threshold; the most recent rows; each user's last positive and what follows it; a random positive of each user; all
    rows of a share of the users, or of the items; in_sample: the rows that are trained on."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """autoint, two_tower: of the random split."""
    test_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """autoint, two_tower: share of the rows that is the test split."""
    repeats: Literal["leave", "once", "keep"] | None = None
    """autoint, two_tower: rows of one user and item. leave: where one is held out, the others leave training; once:
    only the latest counts at all; keep: training may hold what is tested (null: leave, but keep where autoint splits by
    rows, paper or temporal)."""
    fields: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """autoint, two_tower: the fields that are read (null: all)."""
    unknown_rate: Fraction = 0.0
    """autoint, two_tower: share of the values that training replaces by the unknown one, for users and items not seen
    before. merrec with both heads: share of a step's items that are ranked as if they were new."""
    embeddings: str | None = None
    """merrec: the text model whose name vectors are read, where the data set has those of several."""
    name_memory: Amount = 8192
    """merrec: the name vectors stay on the device when they take less than this (MiB); otherwise a thread gathers those
    of each block from host memory."""
    device_memory: Amount = 2048
    """The training split stays on the device when it takes less than this (MiB); otherwise blocks are streamed."""


class ModelConfig(Section):
    name: Literal["gru4rec", "narm", "sasrec", "autoint", "two_tower", "merrec"] = "gru4rec"
    """The model."""
    layers: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (100,)
    """Units of each GRU layer, from input to output (narm: one layer; merrec: two of 128)."""
    embedding: Literal["constrained", "separate", "onehot"] = "constrained"
    """Input of gru4rec: one table for input and output, a table of its own, or one-hot (a table of gate inputs)."""
    embedding_dim: Count = 100
    """Width of the item vectors of narm, sasrec and merrec (128), of the vectors of autoint's and two_tower's values
    (two_tower: 16), and of gru4rec's input table where embedding is 'separate'."""
    dropout_embedding: Fraction = 0.0
    """Dropout on the input vectors (with one-hot input: on the first layer's output, as in the authors' code); on all
    features of two_tower."""
    dropout_hidden: Fraction = 0.0
    """Dropout on the output of each GRU layer (with one-hot input from the second layer on; merrec: all); narm: on the
    session's representation before the decoder; sasrec: in each block; autoint: on each hidden layer of the deep
    network; two_tower: on each hidden layer (0.2)."""
    dropout_attention: Fraction = 0.0
    """autoint: dropout on the attention weights."""
    attention: Literal["sum", "softmax"] = "sum"
    """Weights of narm's local encoder: unnormalised, as published, or normalised to sum to 1."""
    blocks: Annotated[int, Field(ge=0, le=16)] = 2
    """Self-attention blocks of sasrec; interacting layers of autoint, where 0 leaves the deep network alone."""
    heads: Annotated[int, Field(ge=1, le=64)] = 1
    """Attention heads of sasrec, which share embedding_dim, and of autoint, which share attention_dim."""
    attention_dim: Count = 32
    """Width of autoint's interacting layers."""
    deep: Annotated[tuple[Count, ...], Field(max_length=8)] = ()
    """Units of the hidden layers of the deep network beside autoint's interacting layers (AutoInt+); none: AutoInt."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation after each interacting layer of autoint (layer), or each hidden layer of two_tower (batch)."""
    first_order: Literal["none", "weights", "logistic"] = "none"
    """autoint: whether each value has a weight of its own in the logit. weights: they begin at 0, pulled there by
    loss.embedding_l2; logistic: they begin where a logistic regression on the training rows ends, with its penalty."""
    table: Literal["dense", "rows"] = "dense"
    """autoint, two_tower: whether every row of the tables is updated in every step, or only those read (for large
    vocabularies)."""
    hidden: Annotated[tuple[Count, ...], Field(max_length=8)] = (64,)
    """two_tower: units of the hidden layers of each tower."""
    output_dim: Count = 32
    """two_tower: width of the space in which customers and products meet."""
    head: Literal["items", "text", "both"] = "both"
    """merrec: items are ranked by vectors of their own, by their names, so that those that training has not seen can be
    ranked too, or by the sum."""
    name_dim: Count = 128
    """merrec: width that name vectors are projected to before the GRU."""
    text_dim: Count = 128
    """merrec: width of the space in which queries meet the names of items."""
    event_dim: Count = 32
    """merrec: width of the vectors of types of events."""
    item_fields: tuple[Literal["c0", "c1", "c2", "brand", "condition", "price"], ...] = ()
    """merrec: fields of the item that are read with its name: levels of the category, brand, condition, price."""
    field_dim: Count = 16
    """merrec: width of the vectors of these fields' values."""
    window: Annotated[int, Field(ge=1, le=4096)] = 20
    """narm, sasrec, merrec: a score depends on the last so many clicks."""
    stride: Count = 1
    """narm, sasrec, merrec: in training, targets of a session beyond the window are scored so many at a time. At 1 each
    sees a whole window; at s some see s - 1 clicks less, and a long session costs s times less."""
    temperature: Annotated[float, Field(gt=0.0)] | None = None
    """narm and sasrec: scores are this times the cosine of session and item vectors, merrec: of its text head (null:
    inner products)."""
    init_std: Annotated[float, Field(gt=0.0)] | None = None
    """narm, sasrec, autoint, two_tower, merrec: standard deviation of the table's initial vectors (null: 1 /
    sqrt(embedding_dim))."""


class LossConfig(Section):
    name: Literal["cross_entropy", "bpr", "top1", "bpr_max", "top1_max", "softmax", "binary", "triplet", "infonce"] = (
        "cross_entropy"
    )
    """binary: cross-entropy of a click or a good rating (autoint). triplet, infonce: against the items of other rows
    (two_tower). softmax: exact cross-entropy over the whole catalogue (narm, sasrec, merrec). The others rank against
    the step's targets and n_sample drawn items; cross_entropy with logq 1 is the sampled softmax (merrec: 1)."""
    n_sample: Annotated[int, Field(ge=0, le=100_000)] = 2048
    """Negatives drawn for each step and shared by its lanes or rows, beside their targets (two_tower: 0)."""
    sample_alpha: Annotated[float, Field(ge=0.0, le=2.0)] = 0.5
    """Negatives are drawn in proportion to popularity ** sample_alpha (0: uniform, two_tower's; 1: popularity)."""
    logq: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Strength of the logQ correction of cross_entropy and infonce for how often each item is a negative (0: off, 1:
    full)."""
    margin: Annotated[float, Field(gt=0.0, le=2.0)] = 0.5
    """triplet: by how much a wrong item shall be farther away than the right one, at most 2, on the unit sphere."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.1
    """infonce: cosines are divided by it."""
    hard_negatives: Annotated[int, Field(ge=0, le=64)] = 0
    """triplet, infonce: so many of each row's negatives are items close to the right one."""
    hard_pool: Annotated[int, Field(ge=1, le=1024)] = 64
    """Hard negatives are drawn from so many nearest items."""
    refresh_steps: Count = 200
    """Steps after which the nearest items are looked up anew."""
    mask: Literal["positives", "duplicates"] = "positives"
    """triplet, infonce: which items of other rows are no negatives of a row: all that its user has in training, or only
    the row's own."""
    bpreg: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the score regularisation of bpr_max."""
    final_activation: Literal["linear", "relu", "tanh", "elu", "selu", "leaky_relu"] = "linear"
    """Applied to the training scores. Ranking uses the scores before it."""
    activation_alpha: Annotated[float, Field(gt=0.0)] = 1.0
    """Parameter of elu, or the negative slope of leaky_relu, where it must be below 1."""
    label_smoothing: Fraction = 0.0
    """softmax: share of the target's probability that is spread evenly over the catalogue."""
    candidates: Literal["live", "all"] = "live"
    """cross_entropy of merrec: where the data say when items are listed and sold, a target's negatives are those of the
    step's candidates that are live at the time (so fewer than n_sample), or all."""
    category_weight: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """merrec: a target weighs (events of its top category) to the power of minus this; 0: all weigh the same."""
    prior: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """softmax: log popularity times this is added to the training scores (logit adjustment), not to those that rank."""
    rating_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """binary: weight of the squared error of the rating, scaled to 0..1, which a second output predicts (0: none)."""
    embedding_l2: Annotated[float, Field(ge=0.0)] = 0.0
    """binary: this times the squared length of the vectors that a row reads is added to its loss."""
    embedding_l2_power: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """binary: embedding_l2 is divided by this power of the number of training rows that hold the value: 0 pulls on a
    value's vector in each of its rows alike, 1 as much in all of them together, whether they are many or few."""
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
    tables: Literal["same", "rowwise_adagrad"] = "same"
    """Of the embedding tables: the same, or Adagrad with one accumulator a row (merrec)."""
    table_learning_rate: Annotated[float, Field(gt=0.0)] = 0.05
    """rowwise_adagrad: its step size at its highest; it follows the same schedule."""
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
    warmup_steps: Amount = 0
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled decay of all weights (AdamW), times the learning rate; with adam and dense tables only."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Clip the gradient to this global norm, over dense parameters and table rows together (null: off)."""


class TrainingConfig(Section):
    epochs: Count = 10
    """Passes over the training split."""
    batch_size: Annotated[int, Field(ge=1, le=32_768)] = 128
    """gru4rec: lanes, sessions that are trained side by side. narm, sasrec, merrec: targets a step, at most. autoint,
    two_tower: rows."""
    passes: Annotated[int, Field(ge=1, le=10_000)] = 1
    """autoint, two_tower: times that an epoch goes through the training split. For small data: what is done once an
    epoch (validation, saving) takes longer than a pass."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Everything random is a function of it."""
    steps_per_block: Annotated[int, Field(ge=1, le=10_000)] = 200
    """At most so many steps in one compiled call. The result does not depend on it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrix products multiply in training, and keep for the derivative: bfloat16 is what accelerators multiply
    fastest. Parameters and sums stay float32, and so do evaluation and serving. float32 is multiplied as the device
    does it by default (GPUs may take TF32, TPUs bfloat16 passes)."""
    log_every: Count = 10
    """Blocks between two lines of training progress."""
    save_every: Annotated[float, Field(ge=0.0)] = 60.0
    """Seconds between two checkpoints within an epoch (0: every block); each epoch's end saves as well."""
    average: Fraction = 0.0
    """Decay per step of a moving average of all weights, which then evaluates and serves (0: off); with dense tables
    only."""
    early_stopping: Amount = 0
    """Stop after so many epochs without a better validation metric (0: never)."""
    metric: Annotated[str, Field(pattern=METRICS)] = "recall@20"
    """The validation metric that names the best epoch: recall, mrr, ndcg or hit_rate at a cut-off (two_tower:
    recall@10); autoint: auc,
    log_loss, ndcg or hit_rate at a cut-off, or ndcg_published, hit_rate_published."""


class EvaluationConfig(Section):
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (5, 10, 20)
    """Cut-offs of the metrics."""
    ties: Literal["conservative", "standard", "median"] = "conservative"
    """Rank among equal scores: last, first or in the middle."""
    batch_size: Count = 512
    """Sessions that are stepped through side by side; narm, sasrec, merrec: targets a step."""
    sessions: Count | None = None
    """merrec: at most so many sessions are evaluated, drawn at random but always the same (null: all)."""
    memory: Count = 64
    """Bound on the block of scores in MiB."""
    category: str | None = None
    """two_tower: a field of the item; an answer with one of the right category is a category hit."""


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # not 1 or 0
        raise ValueError(f"found {value}; give a number, or text in quotes")
    return value


Value = Annotated[str | int | float, BeforeValidator(_no_truth)]


class Rule(Section):
    """What a shop knows and a model does not."""

    when: dict[str, Value] = Field(default_factory=dict)
    """Values of fields of the user that all have to hold; none: for everybody."""
    boost: Annotated[dict[str, Value], Field(min_length=1)]
    """Values of fields of the item; those that have all of them move up."""
    by: Annotated[float, Field(ge=-1.0, le=1.0)]
    """Added to their scores, which are between 0 and 1."""


class RecommendationConfig(Section):
    rules: tuple[Rule, ...] = ()
    """two_tower: applied where a run recommends; evaluate measures with and without them."""


class MeshConfig(Section):
    data: Count | None = None
    """Devices that share a step's lanes, targets or rows (null: all that this machine has)."""


class Config(Section):
    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    recommendation: RecommendationConfig = RecommendationConfig()
    mesh: MeshConfig = MeshConfig()

    @model_validator(mode="wrap")
    @classmethod
    def _defaults_of_the_model(cls, values: Any, validate: ModelWrapValidatorHandler[Config]) -> Config:
        """Defaults that differ for a model; ``model_fields_set`` holds, as for others, what was given alone."""
        if not isinstance(values, dict):
            return validate(values)
        model, loss = (part.get("name") if isinstance(part := values.get(where), dict) else None
                       for where in ("model", "loss"))  # fmt: skip
        own = defaults_of(model, loss if isinstance(loss, str) else None) if isinstance(model, str) else {}
        if not own:
            return validate(values)
        whole = {name: part if isinstance(part, dict) else values[name] for name, part in {**own, **values}.items()}
        config = validate(
            {name: {**own.get(name, {}), **part} if isinstance(part, dict) else part for name, part in whole.items()}
        )
        for name, fields in own.items():
            if isinstance(part := values.get(name, {}), dict):
                getattr(config, name).model_fields_set.difference_update(set(fields) - set(part))
        return config

    @model_validator(mode="after")
    def _parts_agree(self) -> Config:
        if self.loss.final_activation == "leaky_relu" and self.loss.activation_alpha >= 1.0:
            raise ValueError("loss.activation_alpha: the negative slope of leaky_relu; give one below 1, such as 0.1")
        if self.training.batch_size == 1 and not self.loss.n_sample and self.loss.name not in ("softmax", "binary"):
            raise ValueError("loss.n_sample: 0 leaves a single lane without negatives; draw some or add lanes")
        return self

    @model_validator(mode="after")
    def _the_model_has_it(self) -> Config:
        check_agreement(self)
        return self

"""Which fields of an experiment belong to which model, and which of them go together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jaxrec.cli.wording import listed

if TYPE_CHECKING:
    from jaxrec.config.sections import Config

MODELS_WITH = {
    "layers": ("gru4rec", "narm", "merrec"), "embedding": ("gru4rec",), "attention": ("narm",),
    **dict.fromkeys(("blocks", "heads"), ("sasrec", "autoint")),
    **dict.fromkeys(("window", "stride", "temperature"), ("narm", "sasrec", "merrec")),
    "init_std": ("narm", "sasrec", "autoint", "two_tower", "merrec"),
    **dict.fromkeys(("attention_dim", "deep", "first_order", "dropout_attention"), ("autoint",)),
    **dict.fromkeys(("norm", "table"), ("autoint", "two_tower")),
    **dict.fromkeys(("hidden", "output_dim"), ("two_tower",)),
    **dict.fromkeys(("head", "name_dim", "text_dim", "event_dim", "item_fields", "field_dim"), ("merrec",)),
}  # fmt: skip
"""Fields of the model section that only some models have."""

SESSIONS = ("gru4rec", "narm", "sasrec", "merrec")
ROWS = ("autoint", "two_tower")
DATA_WITH = {
    **dict.fromkeys(("order", "half_life"), SESSIONS),
    **dict.fromkeys(("protocol", "split_seed", "test_fraction", "repeats", "fields"), ROWS),
    "unknown_rate": (*ROWS, "merrec"), **dict.fromkeys(("embeddings", "name_memory"), ("merrec",)),
}  # fmt: skip
"""Fields of the data section that only some models have."""

SAMPLED = ("cross_entropy", "bpr", "top1", "bpr_max", "top1_max")
CONTRASTIVE = ("triplet", "infonce")
LOSSES_WITH = {
    **dict.fromkeys(("final_activation", "activation_alpha"), SAMPLED),
    **dict.fromkeys(("n_sample", "sample_alpha"), (*SAMPLED, *CONTRASTIVE)),
    **dict.fromkeys(("hard_negatives", "hard_pool", "refresh_steps", "mask"), CONTRASTIVE),
    "margin": ("triplet",), "temperature": ("infonce",),
    **dict.fromkeys(("label_smoothing", "prior", "memory", "precision"), ("softmax",)),
    "logq": ("cross_entropy", "infonce"), "bpreg": ("bpr_max",),
    "candidates": ("cross_entropy",),
    **dict.fromkeys(("rating_weight", "embedding_l2", "embedding_l2_power"), ("binary",)),
}  # fmt: skip
"""Fields of the loss section that only some losses have."""

OPTIMIZERS_WITH = {
    "momentum": ("adagrad", "sgd"), "epsilon": ("adagrad", "adam"),
    **dict.fromkeys(("beta1", "beta2", "weight_decay"), ("adam",)),
}  # fmt: skip
"""Fields of the optimizer section that only some optimizers have."""

ALSO_WITH = {
    "training.passes": ROWS, "evaluation.ties": SESSIONS,
    **dict.fromkeys(("evaluation.category", "recommendation.rules"), ("two_tower",)),
    **dict.fromkeys(("loss.category_weight", "loss.candidates", "optimizer.tables", "optimizer.table_learning_rate",
                     "evaluation.sessions"), ("merrec",)),
    "data.half_life": ("narm", "sasrec", "merrec"), "loss.prior": ("narm", "sasrec"),
    "loss.final_activation": ("gru4rec", "narm", "sasrec"),
}  # fmt: skip
"""Further fields, of any section, that only some models have."""

LOSSES = {
    "gru4rec": SAMPLED, **dict.fromkeys(("narm", "sasrec"), (*SAMPLED, "softmax")),
    "merrec": ("cross_entropy", "softmax"), "autoint": ("binary",), "two_tower": CONTRASTIVE,
}  # fmt: skip
"""Losses of each model."""

FOR_MODEL: dict[str, dict[str, dict[str, Any]]] = {
    "autoint": {"loss": {"name": "binary"}, "training": {"metric": "auc"}},
    "two_tower": {
        "model": {"embedding_dim": 16, "dropout_hidden": 0.2, "norm": "batch"},
        "loss": {"name": "triplet", "n_sample": 0, "sample_alpha": 0.0},
        "optimizer": {"name": "adam", "learning_rate": 0.001},
        "training": {"metric": "recall@10"},
    },
    "merrec": {
        "model": {"layers": (128, 128), "embedding_dim": 128},
        "loss": {"name": "cross_entropy", "logq": 1.0, "sample_alpha": 0.5},
        "optimizer": {"name": "adam", "learning_rate": 0.001, "tables": "rowwise_adagrad"},
    },
}
"""Defaults that differ for a model, by section."""


def defaults_of(model: str, loss: str | None) -> dict[str, dict[str, Any]]:
    """The defaults of a model, without those that the chosen loss, if one is chosen, does not have."""
    own = FOR_MODEL.get(model, {})
    if "loss" not in own or loss is None:
        return own
    return {
        **own,
        "loss": {name: value for name, value in own["loss"].items() if loss in LOSSES_WITH.get(name, (loss,))},
    }


def belongs(field: str, model: str, loss: str, optimizer: str) -> bool:
    """Whether ``section.field`` says anything for a model with this loss and optimizer."""
    section, _, name = field.partition(".")
    if model not in ALSO_WITH.get(field, (model,)):
        return False
    if section == "loss":
        return loss in LOSSES_WITH.get(name, (loss,))
    if section == "optimizer":
        return optimizer in OPTIMIZERS_WITH.get(name, (optimizer,))
    return model in {"data": DATA_WITH, "model": MODELS_WITH}.get(section, {}).get(name, (model,))


CLICK_METRICS = r"^(auc|log_loss|(ndcg|hit_rate|ndcg_published|hit_rate_published)@[1-9][0-9]*)$"


def check_agreement(config: Config) -> None:
    """Refuse fields that the model does not have, and parts that do not fit each other.

    Raises:
        ValueError: naming the field, what was found and what to do.
    """
    name, softmax = config.model.name, config.loss.name == "softmax"
    for owner, losses in (("autoint", ("binary",)), ("two_tower", CONTRASTIVE)):
        if (name == owner) != (config.loss.name in losses):
            only = "binary is autoint's, and its only one" if owner == "autoint" else (
                "triplet and infonce are two_tower's, and its only ones")  # fmt: skip
            raise ValueError(f"loss.name: found {config.loss.name} for model {name}; {only}")
    for where, table in (("data", DATA_WITH), ("model", MODELS_WITH), ("loss", LOSSES_WITH),
                         ("optimizer", OPTIMIZERS_WITH)):  # fmt: skip
        section = getattr(config, where)
        for field, owners in table.items():
            value, of = getattr(section, field), name if where == "data" else section.name
            if of not in owners and value != type(section).model_fields[field].default:
                raise ValueError(f"{where}.{field}: found {value!r}, but it belongs to {listed(owners)}; "
                                 f"leave it out for {of}")  # fmt: skip
    for place, owners in ALSO_WITH.items():
        where, _, field = place.partition(".")
        section = getattr(config, where)
        value = getattr(section, field)
        if name not in owners and value != type(section).model_fields[field].default:
            found = "" if isinstance(value, tuple) else f"found {value!r}, but it "
            raise ValueError(f"{place}: {found}belongs to {listed(owners)}; leave it out for {name}")
    if name in ROWS:
        _autoint_agrees(config) if name == "autoint" else _two_tower_agrees(config)
        return
    if re.match(CLICK_METRICS, config.training.metric) and not re.match(r"(ndcg|hit_rate)@", config.training.metric):
        raise ValueError(f"training.metric: {name} ranks items, so it has no {config.training.metric}; choose "
                         "recall, mrr, ndcg or hit_rate at a cut-off, as recall@20")  # fmt: skip
    if name == "merrec":
        _merrec_agrees(config)
        return
    if not config.model.blocks:
        raise ValueError("model.blocks: sasrec needs at least 1")
    if name == "gru4rec" and softmax:
        raise ValueError("loss.name: gru4rec ranks against sampled items; for softmax choose narm or sasrec")
    if name == "narm" and len(config.model.layers) != 1:
        raise ValueError(f"model.layers: narm has one GRU, found {len(config.model.layers)} layers; give one number")
    if name == "sasrec" and config.model.embedding_dim % config.model.heads:
        raise ValueError(f"model.heads: {config.model.heads} do not divide model.embedding_dim "
                         f"{config.model.embedding_dim}; choose a divisor")  # fmt: skip
    if name != "gru4rec":
        _window_agrees(config)
    if not softmax:
        for field, value in (("optimizer.weight_decay", config.optimizer.weight_decay),
                             ("training.average", config.training.average)):  # fmt: skip
            if value:
                raise ValueError(f"{field}: needs loss.name softmax, found {config.loss.name}; set it to 0")


def _merrec_agrees(config: Config) -> None:
    model, loss, optimizer = config.model, config.loss, config.optimizer
    if loss.name not in ("softmax", "cross_entropy"):
        raise ValueError(f"loss.name: found {loss.name}; merrec has softmax and cross_entropy")
    if optimizer.tables == "same" and optimizer.table_learning_rate != 0.05:
        raise ValueError(f"optimizer.table_learning_rate: found {optimizer.table_learning_rate}, but optimizer.tables "
                         "is same; set that to rowwise_adagrad, or leave this out")  # fmt: skip
    if model.head != "items" and model.init_std is not None:
        raise ValueError(f"model.init_std: belongs to model.head items, found {model.head}, where no row begins at "
                         "random; leave it out")  # fmt: skip
    if model.head == "items" and model.temperature is not None:
        raise ValueError("model.temperature: belongs to the text head; leave it out or choose model.head text or both")
    if model.head != "both" and config.data.unknown_rate:
        raise ValueError(f"data.unknown_rate: belongs to model.head both, found {model.head}; leave it out")
    if loss.category_weight and "c0" not in model.item_fields:
        raise ValueError("loss.category_weight: needs the top category; add c0 to model.item_fields")
    if len(set(model.item_fields)) < len(model.item_fields):
        raise ValueError(f"model.item_fields: one is named twice in {', '.join(model.item_fields)}; name each once")
    _window_agrees(config)
    if loss.name == "softmax":
        return
    if config.training.average:
        raise ValueError(f"training.average: needs loss.name softmax, found {loss.name}; set it to 0")
    if optimizer.tables == "same" and optimizer.weight_decay and model.head != "text":
        raise ValueError(f"optimizer.weight_decay: with loss.name {loss.name} it needs optimizer.tables "
                         "rowwise_adagrad, since it decays all weights; set one of them")  # fmt: skip


def _window_agrees(config: Config) -> None:
    if config.training.batch_size < config.model.window:
        raise ValueError(f"training.batch_size: {config.training.batch_size} targets a step do not hold model.window "
                         f"{config.model.window}; raise the one or lower the other")  # fmt: skip
    if config.model.stride > config.model.window:
        raise ValueError(f"model.stride: {config.model.stride} is more than model.window {config.model.window}")


def _two_tower_agrees(config: Config) -> None:
    model, loss = config.model, config.loss
    if model.norm == "layer":
        raise ValueError("model.norm: layer is autoint's; choose batch or none for two_tower")
    if not re.match(r"(recall|mrr|ndcg|hit_rate)@", config.training.metric):
        raise ValueError(f"training.metric: two_tower ranks items, so it has no {config.training.metric}; choose "
                         "recall, mrr, ndcg or hit_rate at a cut-off, as recall@10")  # fmt: skip
    if loss.hard_negatives > loss.hard_pool:
        raise ValueError(f"loss.hard_negatives: {loss.hard_negatives} cannot be drawn from a loss.hard_pool of "
                         f"{loss.hard_pool}; raise the one or lower the other")  # fmt: skip
    if model.table == "rows":
        for field, value in (("optimizer.weight_decay", config.optimizer.weight_decay),
                             ("training.average", config.training.average),
                             ("loss.hard_negatives", loss.hard_negatives)):  # fmt: skip
            if value:
                raise ValueError(f"{field}: needs model.table dense, found rows; set it to 0")


def _autoint_agrees(config: Config) -> None:
    model = config.model
    if not model.blocks and not model.deep:
        raise ValueError("model.blocks, model.deep: neither interacting layers nor a deep network; give one")
    if model.norm == "batch":
        raise ValueError("model.norm: batch is two_tower's; choose layer or none for autoint")
    if model.attention_dim % model.heads:
        raise ValueError(f"model.heads: {model.heads} do not divide model.attention_dim {model.attention_dim}; "
                         "choose a divisor")  # fmt: skip
    if not re.match(CLICK_METRICS, config.training.metric):
        raise ValueError(f"training.metric: autoint has no {config.training.metric}; choose auc, log_loss, or ndcg, "
                         "hit_rate, ndcg_published or hit_rate_published at a cut-off, as ndcg@10")  # fmt: skip
    if model.table == "rows":
        for field, value in (("optimizer.weight_decay", config.optimizer.weight_decay),
                             ("training.average", config.training.average)):  # fmt: skip
            if value:
                raise ValueError(f"{field}: needs model.table dense, found rows; set it to 0")

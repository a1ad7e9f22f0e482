"""Defaults of the fields that earlier versions wrote into every run, whatever its model. This table never changes."""

from __future__ import annotations

from typing import Any

FORMER: dict[str, Any] = {
    "data.order": "random", "data.half_life": None, "data.protocol": "rows", "data.split_seed": 42,
    "data.test_fraction": 0.2, "data.repeats": None, "data.fields": None, "data.unknown_rate": 0.0,
    "data.embeddings": None, "data.name_memory": 8192,
    "model.layers": [100], "model.embedding": "constrained", "model.attention": "sum", "model.blocks": 2,
    "model.heads": 1, "model.attention_dim": 32, "model.deep": [], "model.norm": "none", "model.first_order": "none",
    "model.table": "dense", "model.hidden": [64], "model.output_dim": 32, "model.head": "both", "model.name_dim": 128,
    "model.text_dim": 128, "model.event_dim": 32, "model.item_fields": [], "model.field_dim": 16, "model.window": 20,
    "model.stride": 1, "model.temperature": None, "model.init_std": None, "model.dropout_attention": 0.0,
    "loss.n_sample": 2048, "loss.sample_alpha": 0.5, "loss.logq": 0.0, "loss.margin": 0.5, "loss.temperature": 0.1,
    "loss.hard_negatives": 0, "loss.hard_pool": 64, "loss.refresh_steps": 200, "loss.mask": "positives",
    "loss.bpreg": 1.0, "loss.final_activation": "linear", "loss.activation_alpha": 1.0, "loss.label_smoothing": 0.0,
    "loss.candidates": "live", "loss.category_weight": 0.0, "loss.prior": 0.0, "loss.rating_weight": 0.0,
    "loss.embedding_l2": 0.0, "loss.embedding_l2_power": 0.0, "loss.memory": 64, "loss.precision": "float32",
    "optimizer.momentum": 0.0, "optimizer.epsilon": None, "optimizer.beta1": 0.9, "optimizer.beta2": 0.999,
    "optimizer.weight_decay": 0.0,
    "training.passes": 1, "evaluation.ties": "conservative", "evaluation.sessions": None, "evaluation.category": None,
    "recommendation.rules": [],
}  # fmt: skip

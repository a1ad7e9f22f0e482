"""What a two-tower run exports: ``encode``, fields of a user to a query, and ``rank``, a query to items."""

from __future__ import annotations

from jax import Array

from jaxrec.cli.command import say
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.exported import (
    QUERIES,
    VECTORS,
    Exports,
    Padding,
    Program,
    Value,
    id_array,
    named,
    rank_program,
    vectors_of,
)
from jaxrec.tasks.exported_rows import field_entries, row_inputs, user_arrays, user_rows
from jaxrec.tasks.retrieval import load
from jaxrec.tasks.retrieval.recommend import Recommender
from jaxrec.tasks.vectors import check_k


def exports(loaded: Loaded, k: int | None) -> Exports:
    """Both programs, as ``Recommender`` runs them one after the other where no rules apply."""
    run, model = loaded.run, loaded.model
    if run.config.recommendation.rules:
        say("note", f"{run.path}: the shop's rules (recommendation.rules) are not exported; recommend applies them")
    kind, schema = Recommender(loaded), run.schema.side("user")
    items = kind.vectors()
    k, padding = check_k(k, len(kind.items)), Padding(before=1)  # row 0 is the unknown item
    tree = {part: {"user": one["user"]} for part, one in loaded.weights.items() if "user" in one}
    weights, whole = named({"tables": {}, "statistics": {"user": {}}} | tree)
    vectors = vectors_of(items)
    entries, arrays = field_entries(kind.codes, schema)
    columns, numbers = kind.stacked("user", user_rows(kind.people.users, kind.nothing))

    def encode(weights: dict[str, Array], columns: Array, numbers: Array) -> tuple[Array]:
        return (model.encode("user", whole(weights), columns, numbers),)

    program = Program("encode", encode, row_inputs(schema), (Value("queries", QUERIES),), encode)
    return Exports(
        [program, rank_program(vectors, k, run.config.evaluation.memory, padding, lambda scores: (1 + scores) / 2)],
        {**weights, VECTORS: vectors},
        load,
        {"k": k, "separator": kind.codes.separator, "fields": entries},
        {"ids": id_array(kind.items.ids.values()), "user_columns": columns, "user_numbers": numbers,
         **user_arrays(kind.people), **arrays},
        {VECTORS: padding},
        items=items,
    )  # fmt: skip

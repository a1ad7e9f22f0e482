"""The files of a dataset directory that keep its reviews and their personas, for programs and for people.

reviews.parquet (customer, product, persona, text; row r is row r of the data), embeddings.npy (float16[n, d], where
there are any), personas.json (how they were found, the rules, the personas), PERSONAS.md (the same to be read).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrec.data.store import map_array
from jaxrec.errors import UserError
from jaxrec.personas.clusters import Persona
from jaxrec.personas.rules import Range, Rule, parse_rules

REVIEWS, EMBEDDINGS, FACTS, PAGE = "reviews.parquet", "embeddings.npy", "personas.json", "PERSONAS.md"
LONGEST = 200  # characters of a review on the page


@dataclass(frozen=True)
class Reviews:
    """Reviews, one a customer, and their personas."""

    customers: list[str]
    products: list[str]
    texts: list[str]
    labels: np.ndarray  # int32[n], the persona of each
    personas: tuple[Persona, ...]
    rules: tuple[Rule, ...]
    embeddings: np.ndarray | None  # float16[n, d]
    seed: int  # of clusters and draws
    model: str | None  # that gave the embeddings
    given: bool  # personas and attributes were read from a file; otherwise they are derived from the reviews

    def write(self, out: Path) -> list[str]:
        """Write the files into the folder ``out``; returns their names."""
        names = [self.personas[label].name for label in self.labels]
        columns = {"customer": self.customers, "product": self.products, "persona": names, "text": self.texts}
        pq.write_table(pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}),
                       out / REVIEWS)  # fmt: skip
        if self.embeddings is not None:
            np.save(out / EMBEDDINGS, np.ascontiguousarray(self.embeddings, np.float16), allow_pickle=False)
        personas = [asdict(one) | {"nearest": [self.customers[n] for n in one.nearest]} for one in self.personas]
        facts = {"seed": self.seed, "model": self.model, "clusters": len(personas), "given": self.given,
                 "rules": {rule.name: rule.model_dump(exclude_none=True) for rule in self.rules},
                 "personas": personas}  # fmt: skip
        (out / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        model = "no embeddings" if self.model is None else f"embeddings of {self.model}"
        about = (f"K-means (k = {len(personas)}, seed {self.seed}) on {model}; attributes are drawn from the rule of "
                 "the persona, or from any where it has none: they are derived from the review, not known of the "
                 "customer.")  # fmt: skip
        if self.given:
            about = f"Personas and attributes as given with the customers; rules are those of the table; {model}."
        page = personas_markdown(self.personas, self.rules, self.texts, about)
        (out / PAGE).write_text(page, encoding="utf-8")
        return [REVIEWS, *([] if self.embeddings is None else [EMBEDDINGS]), FACTS, PAGE]


def read_reviews(path: Path, manifest: dict[str, Any]) -> Reviews:
    """What ``Reviews.write`` left in a dataset directory; embeddings are mapped."""
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        table = pq.read_table(path / REVIEWS)
        customers, products, names, texts = (table[column].to_pylist() for column in
                                             ("customer", "product", "persona", "text"))  # fmt: skip
        place = {customer: number for number, customer in enumerate(customers)}
        personas = tuple(
            Persona(**{**one, "words": tuple(one["words"]), "nearest": tuple(place[c] for c in one["nearest"])})
            for one in facts["personas"]
        )
        order = {persona.name: number for number, persona in enumerate(personas)}
        labels = np.array([order[name] for name in names], np.int32)
        rules = parse_rules(facts["rules"], str(path / FACTS))
        embeddings = map_array(path, EMBEDDINGS, manifest) if EMBEDDINGS in manifest["files"] else None
        return Reviews(customers, products, texts, labels, personas, rules, embeddings, facts["seed"], facts["model"],
                       facts["given"])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged or missing reviews ({error}); prepare the data set again") from None


def personas_markdown(personas: Sequence[Persona], rules: Sequence[Rule], texts: Sequence[str], about: str) -> str:
    """PERSONAS.md: a sentence ``about`` how the personas were found, a table of all, then each with its rule, its
    telling words and its nearest reviews.
    """
    total = max(1, sum(persona.size for persona in personas))
    by_name = {rule.name: rule for rule in rules}
    lines = ["# Personas", "", f"{total:,} reviews. {about}", "", "| persona | reviews | share |", "|---|--:|--:|"]
    lines += [f"| {_plain(one.name)} | {one.size:,} | {one.size / total:.1%} |" for one in personas]
    for one in personas:
        title, rule = f": {_plain(one.title)}" if one.title else "", by_name.get(one.name)
        lines += ["", f"## {_plain(one.name)}{title}", "", f"{one.size:,} reviews ({one.size / total:.1%})", ""]
        lines += ["- rule: none of the table" if rule is None else f"- rule: {_plain(', '.join(rule.words))}"]
        for name, kind in rule.attributes.items() if rule else ():
            if isinstance(kind, Range):
                form = "uniform" if kind.mean is None else f"normal, mean {kind.mean:g}, deviation {kind.deviation:g}"
                what = f"{kind.low} to {kind.high}, {form}"
            else:
                whole = sum(kind.values())
                what = ", ".join(f"{_plain(value)} {weight / whole:.0%}" for value, weight in kind.items())
            lines.append(f"- {_plain(name)}: {what}")
        lines += [f"- telling words: {_plain(', '.join(one.words)) or 'none'}"]
        lines += ["- nearest reviews:"] if one.nearest else ["- nearest reviews: not known without embeddings"]
        lines += [f"  - “{_plain(texts[number], LONGEST)}”" for number in one.nearest]
    return "\n".join(lines) + "\n"


def _plain(text: str, longest: int | None = None) -> str:
    """On one line, shortened, and with nothing in it that Markdown would take for markup."""
    line = " ".join(text.split())
    if longest and len(line) > longest:
        line = line[:longest].rstrip() + "…"
    return re.sub(r"([\\`*_<>|\[\]#~])", r"\\\1", line)

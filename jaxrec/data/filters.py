"""Filters on items' attributes, the same for every kind of run: ``price <= 50 and genres = 'Comedy'``.

A filter is made of comparisons (``= <> != < <= > >=``, ``between 1 and 5``, ``in ('a', 'b')``, ``like '%a_'``,
``ilike``, ``is null``), ``and``, ``or``, ``not`` and parentheses, over attributes, numbers, 'texts', true and false.
Attributes with other characters than letters, digits and _ stand in "double quotes". Of an attribute with several
values (a bag) one value that fits is enough. As in SQL a missing value is neither equal nor unequal to anything: such
items match neither ``price > 5`` nor ``not (price > 5)``, but ``price is null``.

``FIELD=VALUE`` without quotes and spaces around ``=``, one a line, is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lark import Lark, Token, Transformer_NonRecursive, v_args
from lark.exceptions import UnexpectedInput, UnexpectedToken, VisitError

from jaxrec.data.ids import MOST_COMPARED
from jaxrec.errors import UserError, nearest, shown

NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
GRAMMAR = rf"""
?start: either
?either: both ("or"i both)*
?both: negation ("and"i negation)*
?negation: "not"i negation -> inverse | condition
?condition: "(" either ")"
    | value COMPARISON value -> compare
    | value NOT? "between"i value "and"i value -> between
    | value NOT? "in"i "(" value ("," value)* ")" -> within
    | value NOT? LIKE text -> like
    | attribute "is"i NOT? "null"i -> missing
?attribute: NAME -> name | QUOTED -> name
?value: attribute | text | NUMBER -> number | TRUTH -> truth
text: TEXT
COMPARISON: "=" | "<>" | "!=" | "<=" | "<" | ">=" | ">"
NOT: "not"i
LIKE.2: /i?like\b/i
TRUTH.2: /(true|false)\b/i
NAME: /[^\W\d]\w*/i
QUOTED: /"[^"]+"/i
TEXT: /'([^']|'')*'/i
NUMBER: /{NUMBER}/i
%ignore /\s+/
"""
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal
}  # fmt: skip
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
PLAIN = re.compile(r"([^\s=<>!'\"]+)=(?!['\"=\s])(.+)")  # FIELD=VALUE
ALLOWED = "a filter is made of attributes, numbers, 'texts', = <> < <= > >=, and, or, not, in, between, like, is null"
LONGEST = 100_000  # characters of a filter


class Operand(NamedTuple):
    """One side of a comparison, of the kind ``number``, ``text`` or ``truth``: an attribute's column, or a constant."""

    kind: str
    called: str  # in messages
    values: Any
    name: str = ""  # of an attribute


def joined(arguments: Sequence[str]) -> str:
    """The filter that the words of a command line are: FIELD=VALUE, each a condition, or the words of one filter."""
    return ("\n" if all(PLAIN.fullmatch(one) for one in arguments) else " ").join(arguments)


def matching(attributes: pa.Table, text: str) -> tuple[np.ndarray, list[str]]:
    """The items that a filter leaves: int64[m], m >= 1, row numbers, ascending; and a note for each value that no item
    has. Columns of numbers, texts, bools and lists of them can be used.
    """
    if not text.strip() or len(text) > LONGEST or any("\ud800" <= one <= "\udfff" for one in text):
        raise UserError(f"where: found {shown(text)}; give a condition of at most {LONGEST:,} characters; {ALLOWED}")
    masks, lines = _Masks(attributes), [PLAIN.fullmatch(line) for line in text.strip().split("\n")]
    try:
        tree = _parser.parse(text)
        as_lines = all(lines) and tree.data == "compare"
    except UnexpectedInput as error:
        if not all(lines):
            ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
            what = "it ends too early" if ended else f"{shown(text[error.pos_in_stream :], 30)} is not expected here"
            raise UserError(f"where: {what}; {ALLOWED}") from None
        as_lines = True
    try:
        conditions = [masks.line(*line.groups()) for line in lines if line] if as_lines else [masks.transform(tree)]
    except VisitError as error:
        raise error.orig_exc from None
    mask = pc.fill_null(reduce(pc.and_kleene, conditions), False)
    rows, notes = np.flatnonzero(mask.to_numpy(zero_copy_only=False)), list(dict.fromkeys(masks.notes))
    if not len(rows):
        why = f": {notes[0]}" if notes else ""
        raise UserError(f"where: {shown(text, 80)} leaves none of {len(attributes):,} items{why}; ask for less")
    return rows.astype(np.int64), notes


@v_args(inline=True)
class _Masks(Transformer_NonRecursive):
    """From the leaves of a syntax tree up: bools of the items, null where a value is missing."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__()
        self._table = table
        self._known = {name.lower(): name for name in reversed(table.column_names)}
        self.notes: list[str] = []

    def name(self, token: str) -> Operand:
        token = token.strip('"')
        name = token if token in self._table.column_names else self._known.get(token.lower(), "")
        if not name:
            there = ", ".join(self._table.column_names)
            raise UserError(f"where: no attribute '{token}'{nearest(token, self._table.column_names)}; there "
                            f"are {there}; a text stands in single quotes: '{token}'")  # fmt: skip
        column = self._table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        value = column.type.value_type if _is_bag(column) else column.type
        kinds = {"number": ("int", "uint", "float", "double", "halffloat", "decimal"), "text": ("string", "large_str"),
                 "truth": ("bool",)}  # fmt: skip
        for kind, types in kinds.items():
            if str(value).startswith(types):
                return Operand(kind, f"attribute '{name}'", column, name)
        raise UserError(f"where: attribute '{name}' is of type {value}; only numbers, texts and bools compare")

    def text(self, token: str) -> Operand:
        text = token[1:-1].replace("''", "'")
        return Operand("text", shown(text), text)

    def number(self, token: str) -> Operand:
        exact = re.fullmatch(r"[-+]?\d{1,19}", token) and -(2**63) <= int(token) < 2**63
        return Operand("number", token[:40], int(token) if exact else float(token))

    def truth(self, token: str) -> Operand:
        return Operand("truth", token.lower(), token.lower() == "true")

    def either(self, *masks: pa.Array) -> pa.Array:
        return reduce(pc.or_kleene, masks)

    def both(self, *masks: pa.Array) -> pa.Array:
        return reduce(pc.and_kleene, masks)

    def inverse(self, mask: pa.Array) -> pa.Array:
        return pc.invert(mask)

    def compare(self, left: Operand, token: str, right: Operand) -> pa.Array:
        if not left.name:
            left, right, token = right, left, MIRRORED.get(token, token)
        if token in COMPARE and token != "=":
            return self._where(left, right, COMPARE[token])
        return _unless(token != "=", self._equal(left, [right]))

    def between(self, value: Operand, *rest: Any) -> pa.Array:
        *negated, low, high = rest
        masks = self._where(value, low, pc.greater_equal), self._where(value, high, pc.less_equal)
        return _unless(negated, pc.and_kleene(*masks))

    def within(self, value: Operand, *rest: Any) -> pa.Array:
        negated = isinstance(rest[0], Token)
        return _unless(negated, self._equal(value, rest[1:] if negated else rest))

    def like(self, value: Operand, *rest: Any) -> pa.Array:
        *negated, word, pattern = rest
        return _unless(negated, self._where(value, pattern, partial(pc.match_like, ignore_case=len(word) > 4)))

    def missing(self, value: Operand, *negated: Any) -> pa.Array:
        column = value.values
        known = pc.greater(_lengths(column), 0) if _is_bag(column) else pc.is_valid(column)
        return _unless(not negated, known)

    def line(self, name: str, value: str) -> pa.Array:
        """FIELD=VALUE, where the attribute says what the value is."""
        attribute, value = self.name(name), value.strip()
        if attribute.kind == "number" and re.fullmatch(NUMBER, value, re.IGNORECASE):
            return self._equal(attribute, [self.number(value)])
        if attribute.kind == "truth" and value.lower() in ("true", "false"):
            return self._equal(attribute, [self.truth(value)])
        return self._equal(attribute, [Operand("text", shown(value), value)])

    def _equal(self, left: Operand, others: Sequence[Operand]) -> pa.Array:
        """Which items have one of some values; a value that none has is noted."""
        masks = [self._where(left, other, pc.equal) for other in others]
        for other, mask in zip(others, masks, strict=True):
            if not other.name and isinstance(other.values, str | int) and not pc.any(mask).as_py():
                values = pc.unique(pc.list_flatten(left.values) if _is_bag(left.values) else left.values)
                texts = values.drop_null().to_pylist() if other.kind == "text" and len(values) < MOST_COMPARED else ()
                self.notes.append(f"no item has the {left.name} {other.called}{nearest(str(other.values), texts)}")
        return reduce(pc.or_kleene, masks)

    def _where(self, left: Operand, right: Operand, test: Callable[[Any, Any], Any]) -> pa.Array:
        """Where the value passes a test, or of a bag one of the values; null where there is none."""
        column, other = left.values, right.values
        if not left.name or left.kind != right.kind or (right.name and (_is_bag(column) or _is_bag(other))):
            raise UserError(f"where: {left.called} is a {left.kind} and {right.called} a {right.kind}; compare an "
                            "attribute with what is like it: texts stand in 'single quotes', numbers in none, and what "
                            "has several values compares with a constant")  # fmt: skip
        values = pc.list_flatten(column) if _is_bag(column) else column
        if pa.types.is_float32(values.type) and not right.name:
            other = pa.scalar(other, values.type)  # 1.1 is not the double 1.1 there
        mask = test(values, other)
        if not _is_bag(column):
            return mask
        passed = np.zeros(len(column), bool)
        passed[pc.list_parent_indices(column).filter(mask).to_numpy()] = True
        return pa.array(passed, mask=_lengths(column).to_numpy() == 0)


def _unless(negated: object, mask: pa.Array) -> pa.Array:
    return pc.invert(mask) if negated else mask


def _is_bag(column: Any) -> bool:
    return isinstance(column, pa.Array) and (pa.types.is_list(column.type) or pa.types.is_large_list(column.type))


def _lengths(bags: pa.Array) -> pa.Array:
    return pc.fill_null(pc.list_value_length(bags), 0)


_parser = Lark(GRAMMAR, parser="lalr", lexer="basic", maybe_placeholders=False)

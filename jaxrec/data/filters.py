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
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError

from jaxrec.data.ids import MOST_COMPARED
from jaxrec.errors import UserError, nearest, shown

GRAMMAR = r"""
?start: either
?either: both ("or"i both)*
?both: negation ("and"i negation)*
?negation: "not"i negation -> inverse | condition
?condition: "(" either ")"
    | value COMPARISON value -> compare
    | value NOT? "between"i value "and"i value -> between
    | value NOT? "in"i "(" value ("," value)* ")" -> within
    | value NOT? LIKE TEXT -> like
    | value "is"i NOT? "null"i -> missing
?value: NAME -> name | QUOTED -> quoted | TEXT -> text | NUMBER -> number | TRUTH -> truth
COMPARISON: "=" | "<>" | "!=" | "<=" | "<" | ">=" | ">"
NOT: "not"i
LIKE.2: /i?like\b/i
TRUTH.2: /(true|false)\b/i
NAME: /[^\W\d]\w*/i
QUOTED: /"[^"]+"/i
TEXT: /'([^']|'')*'/i
NUMBER: /[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i
%ignore /\s+/
"""
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal
}  # fmt: skip
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
PLAIN = re.compile(r"([^\s=<>!'\"]+)=(?!['\"=\s])(.+)")  # FIELD=VALUE
SUCH_AS = "price <= 50 and genres = 'Comedy'"
ALLOWED = "a filter is made of attributes, numbers, 'texts', = <> < <= > >=, and, or, not, in, between, like, is null"
LONGEST = 100_000  # characters of a filter


class Operand(NamedTuple):
    """One side of a comparison.

    Attributes:
        kind: ``number``, ``text`` or ``truth``.
        called: in messages.
        values: of an attribute a value an item, or of a bag a list; of a constant the constant.
        name: of an attribute.
    """

    kind: str
    called: str
    values: Any
    name: str = ""


def joined(arguments: Sequence[str]) -> str:
    """The filter that the words of a command line are: FIELD=VALUE, each a condition, or the words of one filter."""
    return ("\n" if all(PLAIN.fullmatch(one) for one in arguments) else " ").join(arguments)


def matching(attributes: pa.Table, text: str) -> tuple[np.ndarray, list[str]]:
    """The items that a filter leaves.

    Args:
        attributes: a row an item; columns of numbers, texts, bools and lists of them can be used.
        text: the filter.

    Returns:
        int64[m], m >= 1, row numbers, ascending; and a note for each value that no item has.
    """
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"where: found {shown(text)}; give a condition, such as {SUCH_AS!r}")
    if len(text) > LONGEST:
        raise UserError(f"where: {len(text):,} characters; at most {LONGEST:,} are allowed")
    if not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
        raise UserError(f"where: {shown(text)} holds characters that are no text; remove them")
    masks = _Masks(attributes)
    mask = pc.fill_null(_evaluated(text, masks), False)
    rows = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    notes = list(dict.fromkeys(masks.notes))
    if not len(rows):
        why = f": {notes[0]}" if notes else ""
        raise UserError(f"where: {shown(text, 80)} leaves none of {len(attributes):,} items{why}; ask for less")
    return rows.astype(np.int64), notes


def _evaluated(text: str, masks: _Masks) -> pa.Array:
    lines = [PLAIN.fullmatch(line) for line in text.strip().split("\n")]
    tree, wrong = None, None
    try:
        tree = _parser.parse(text)
    except UnexpectedInput as error:
        wrong = error
    if all(lines) and (len(lines) > 1 or tree is None or tree.data == "compare"):
        return reduce(pc.and_kleene, [masks.plain(*line.groups()) for line in lines if line])
    if tree is None:
        raise UserError(f"where: {_what_is_wrong(wrong, text)}; {ALLOWED}") from None
    try:
        return masks.transform(tree)
    except VisitError as error:
        raise error.orig_exc from None


def _what_is_wrong(error: Exception | None, text: str) -> str:
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        return f"{shown(text[error.pos_in_stream or 0 :], 30)} is not expected here"
    if isinstance(error, UnexpectedCharacters):
        rest = text[error.pos_in_stream :]
        return "a quote is never closed" if rest[0] in "'\"" else f"{shown(rest, 30)} is not expected here"
    return f"{shown(text, 80)} ends too early"


@v_args(inline=True)
class _Masks(Transformer_NonRecursive):
    """From the leaves of a syntax tree up: bools of the items, null where a value is missing."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__()
        self._table = table
        self._known = {name.lower(): name for name in reversed(table.column_names)}
        self.notes: list[str] = []

    # ---- operands

    def name(self, token: str) -> Operand:
        name = token if token in self._table.column_names else self._known.get(token.lower())
        if name is None:
            there = ", ".join(self._table.column_names)
            raise UserError(f"where: no attribute '{token}'{nearest(token, self._table.column_names)}; there "
                            f"are {there}; a text stands in single quotes: '{token}'")  # fmt: skip
        column = self._table[name].combine_chunks()
        value = column.type.value_type if _is_bag(column) or pa.types.is_dictionary(column.type) else column.type
        for kind, (fits, type_) in KINDS.items():
            if any(fit(value) for fit in fits):
                plain = column.cast(pa.list_(type_ or value) if _is_bag(column) else type_ or value)
                return Operand(kind, f"attribute '{name}'", plain, name)
        raise UserError(f"where: attribute '{name}' is of type {column.type}; only numbers, texts and bools compare")

    def quoted(self, token: str) -> Operand:
        return self.name(token[1:-1])

    def text(self, token: str) -> Operand:
        return Operand("text", shown(_unquoted(token)), _unquoted(token))

    def number(self, token: str) -> Operand:
        number = float(token)
        exact = re.fullmatch(r"[-+]?\d{1,19}", token) and -(2**63) <= int(token) < 2**63
        return Operand("number", token[:40], int(token) if exact else number)

    def truth(self, token: str) -> Operand:
        return Operand("truth", token.lower(), token.lower() == "true")

    # ---- conditions

    def either(self, *masks: pa.Array) -> pa.Array:
        return reduce(pc.or_kleene, masks)

    def both(self, *masks: pa.Array) -> pa.Array:
        return reduce(pc.and_kleene, masks)

    def inverse(self, mask: pa.Array) -> pa.Array:
        return pc.invert(mask)

    def compare(self, left: Operand, token: str, right: Operand) -> pa.Array:
        if not left.name:
            left, right, token = right, left, MIRRORED.get(token, token)
        if token in ("<>", "!="):
            return pc.invert(self._equal(left, [right]))
        return self._equal(left, [right]) if token == "=" else self._where(left, right, COMPARE[token])

    def between(self, value: Operand, *rest: Any) -> pa.Array:
        *negated, low, high = rest
        found = pc.and_kleene(self._where(value, low, pc.greater_equal), self._where(value, high, pc.less_equal))
        return pc.invert(found) if negated else found

    def within(self, value: Operand, *rest: Any) -> pa.Array:
        negated = isinstance(rest[0], Token)
        found = self._equal(value, rest[1:] if negated else rest)
        return pc.invert(found) if negated else found

    def like(self, value: Operand, *rest: Any) -> pa.Array:
        *negated, word, pattern = rest
        _check_alike(value, self.text(pattern))
        test = partial(pc.match_like, pattern=_unquoted(pattern), ignore_case=word.lower() == "ilike")
        found = _any_value(_attribute(value), test)
        return pc.invert(found) if negated else found

    def missing(self, value: Operand, *negated: Any) -> pa.Array:
        column = _attribute(value)
        known = pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0) if _is_bag(column) else column.is_valid()
        return known if negated else pc.invert(known)

    def plain(self, name: str, value: str) -> pa.Array:
        """FIELD=VALUE, where the attribute says what the value is."""
        attribute, value = self.name(name), value.strip()
        if attribute.kind == "number" and re.fullmatch(NUMBER, value):
            return self._equal(attribute, [self.number(value)])
        if attribute.kind == "truth" and value.lower() in ("true", "false"):
            return self._equal(attribute, [self.truth(value)])
        return self._equal(attribute, [Operand("text", shown(value), value)])

    def _equal(self, left: Operand, others: Sequence[Operand]) -> pa.Array:
        """Which items have one of some values; a value that none has is noted."""
        found = []
        for other in others:
            found.append(self._where(left, other, pc.equal))
            if not other.name and isinstance(other.values, str | int) and not pc.any(found[-1]).as_py():
                self.notes.append(f"no item has the {left.name} {other.called}{_like(left.values, other.values)}")
        return reduce(pc.or_kleene, found)

    def _where(self, left: Operand, right: Operand, compare: Callable[[Any, Any], Any]) -> pa.Array:
        _check_alike(left, right)
        if right.name and (_is_bag(left.values) or _is_bag(right.values)):
            raise UserError(f"where: {left.called} and {right.called}: one has several values; compare with a constant")
        return _any_value(_attribute(left), lambda values: compare(values, _constant(right.values, values.type)))


NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
KINDS: dict[str, tuple[tuple[Callable[[pa.DataType], bool], ...], pa.DataType | None]] = {
    "number": ((pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal), None),
    "text": ((pa.types.is_string, pa.types.is_large_string), pa.string()),
    "truth": ((pa.types.is_boolean,), None),
}
"""What attributes can be compared with, the Arrow types of each, and what those are cast to."""


def _is_bag(column: Any) -> bool:
    return isinstance(column, pa.Array) and (pa.types.is_list(column.type) or pa.types.is_large_list(column.type))


def _attribute(operand: Operand) -> Any:
    if not operand.name:
        raise UserError(f"where: {operand.called}: a constant; compare it with an attribute")
    return operand.values


def _constant(value: Any, type_: pa.DataType) -> Any:
    """With a column of float32 the number that it would hold: 1.1 is not the double 1.1 there."""
    return pa.scalar(value, type_) if pa.types.is_float32(type_) and not isinstance(value, pa.Array) else value


def _check_alike(left: Operand, right: Operand) -> None:
    if left.kind != right.kind:
        raise UserError(f"where: {left.called} is a {left.kind} and {right.called} a {right.kind}; compare like with "
                        "like: texts stand in 'single quotes', numbers in none")  # fmt: skip


def _any_value(column: pa.Array, test: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Where the value passes a test, or of a bag one of the values; null where there is none."""
    if not _is_bag(column):
        return test(column)
    passed = np.zeros(len(column), bool)
    fits = pc.fill_null(test(pc.list_flatten(column)), False).to_numpy(zero_copy_only=False)
    passed[pc.list_parent_indices(column).to_numpy()[fits]] = True
    empty = pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0)
    return pa.array(passed, mask=empty.to_numpy(zero_copy_only=False))


def _like(column: pa.Array, value: Any) -> str:
    """`` (did you mean 'x'?)`` where an item has something close."""
    values = pc.drop_null(pc.unique(pc.list_flatten(column) if _is_bag(column) else column))
    return nearest(value, values.to_pylist()) if isinstance(value, str) and len(values) <= MOST_COMPARED else ""


def _unquoted(token: str) -> str:
    return token[1:-1].replace("''", "'")


_parser = Lark(GRAMMAR, parser="lalr", lexer="basic", maybe_placeholders=False)

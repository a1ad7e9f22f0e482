"""Filters on items' attributes, the same for every kind of run: ``price <= 50 and genres = 'Comedy'``.

A filter is made of comparisons of an attribute with numbers, 'texts', true and false (``= <> != < <= > >=``,
``in ('a', 'b')``, ``like '%a_'``, ``is null``), ``and``, ``or``, ``not`` and parentheses. Attributes with other
characters than letters, digits and _ stand in "double quotes". Of an attribute with several values (a bag) one value
that fits is enough. As in SQL a missing value is neither equal nor unequal to anything: such items match neither
``price > 5`` nor ``not (price > 5)``, but ``price is null``.

``FIELD=VALUE`` without quotes and spaces around ``=``, one a line, is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lark import Lark, Token, Transformer_NonRecursive, v_args
from lark.exceptions import UnexpectedInput, VisitError

from jaxrec.errors import UserError, nearest, shown

GRAMMAR = r"""
?start: either
?either: both ("or"i both)*
?both: negation ("and"i negation)*
?negation: "not"i negation -> inverse | condition
?condition: "(" either ")"
    | attribute COMPARISON constant -> compare
    | attribute NOT? "in"i "(" constant ("," constant)* ")" -> within
    | attribute NOT? "like"i constant -> like
    | attribute "is"i NOT? "null"i -> missing
attribute: NAME | QUOTED
constant: TEXT | NUMBER | TRUTH
COMPARISON: "=" | "<>" | "!=" | "<=" | "<" | ">=" | ">"
NOT: "not"i
TRUTH.2: /(true|false)\b/i
NAME: /[^\W\d]\w*/i
QUOTED: /"[^"]+"/
TEXT: /'([^']|'')*'/
NUMBER: /-?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i
%ignore /\s+/
"""
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal
}  # fmt: skip
PLAIN = re.compile(r"([^\s=<>!'\"]+)=([^\s=<>'\"][^=<>\n]*)")  # FIELD=VALUE
ALLOWED = ("a filter compares attributes with numbers, 'texts', true and false: = <> < <= > >=, in, like, is null; "
           "and, or, not")  # fmt: skip


class Attribute(NamedTuple):
    """A column of the items; of bags ``values`` are those of all, and ``sizes`` int[n] how many each item has."""

    name: str
    column: pa.Array
    values: pa.Array
    sizes: np.ndarray | None = None


def joined(arguments: Sequence[str]) -> str:
    """The filter that the words of a command line are: FIELD=VALUE, each a condition, or the words of one filter."""
    return ("\n" if all(PLAIN.fullmatch(one) for one in arguments) else " ").join(arguments)


def matching(attributes: pa.Table, text: str) -> np.ndarray:
    """The items that a filter leaves: int64[m], m >= 1, row numbers, ascending. Columns of numbers, texts, dates, bools
    and lists of them can be used.
    """
    lines = [PLAIN.fullmatch(line.strip()) for line in text.strip().split("\n")]
    pairs = [(line[1], line[2].strip().replace("'", "''")) for line in lines if line]
    spelt = text if len(pairs) < len(lines) else " and ".join(f"\"{name}\" = '{value}'" for name, value in pairs)
    try:
        mask = pc.fill_null(_Masks(attributes).transform(_parser.parse(spelt)), False)
    except UnexpectedInput as error:
        ended = getattr(error, "token", text) == ""
        what = "it ends too early" if ended else f"{shown(text[error.pos_in_stream :], 30)} is not expected here"
        raise UserError(f"where: {what}; {ALLOWED}") from None
    except VisitError as error:
        raise error.orig_exc from None
    rows = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    if not len(rows):
        raise UserError(f"where: {shown(text, 80)} leaves none of {len(attributes):,} items; ask for less")
    return rows.astype(np.int64)


@v_args(inline=True)
class _Masks(Transformer_NonRecursive):
    """From the leaves of a syntax tree up: bools of the items, null where a value is missing."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__()
        self._table = table
        self._known = {name.lower(): name for name in reversed(table.column_names)}

    def attribute(self, token: str) -> Attribute:
        token = token.strip('"')
        name = token if token in self._table.column_names else self._known.get(token.lower(), "")
        if not name:
            raise UserError(f"where: no attribute '{token}'{nearest(token, self._table.column_names)}; there are "
                            f"{', '.join(self._table.column_names)}")  # fmt: skip
        column = self._table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            return Attribute(name, column, column)
        sizes = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
        return Attribute(name, column, pc.list_flatten(column), sizes)

    def constant(self, token: str) -> str:
        return token[1:-1].replace("''", "'") if token.startswith("'") else str(token)

    def either(self, *masks: pa.Array) -> pa.Array:
        return reduce(pc.or_kleene, masks)

    def both(self, *masks: pa.Array) -> pa.Array:
        return reduce(pc.and_kleene, masks)

    def inverse(self, mask: pa.Array) -> pa.Array:
        return pc.invert(mask)

    def compare(self, attribute: Attribute, sign: str, constant: str) -> pa.Array:
        return _unless(sign in ("<>", "!="), _where(attribute, constant, COMPARE.get(sign, pc.equal)))

    def within(self, attribute: Attribute, *rest: str) -> pa.Array:
        negated = isinstance(rest[0], Token)
        return _unless(negated, self.either(*(_where(attribute, one, pc.equal) for one in rest[negated:])))

    def like(self, attribute: Attribute, *rest: str) -> pa.Array:
        *negated, pattern = rest
        return _unless(negated, _where(attribute, pattern, lambda values, text: pc.match_like(values, text.as_py())))

    def missing(self, attribute: Attribute, *negated: str) -> pa.Array:
        known = attribute.column.is_valid() if attribute.sizes is None else pa.array(attribute.sizes > 0)
        return _unless(not negated, known)


def _where(attribute: Attribute, constant: str, test: Callable[[Any, Any], Any]) -> pa.Array:
    """Where the value passes a test, or of a bag one of the values; null where there is none."""
    kind = of_constant = attribute.values.type
    if pa.types.is_integer(kind):
        of_constant = pa.int64() if re.fullmatch(r"-?\d{1,19}", constant) else pa.float64()
    try:
        mask = test(attribute.values, pa.scalar(constant).cast(of_constant))
    except (pa.ArrowException, ValueError):  # ValueError: of half a character
        raise UserError(f"where: attribute '{attribute.name}' is of type {kind}, to which {shown(constant)} does not "
                        "compare; give another value") from None  # fmt: skip
    if attribute.sizes is None:
        return mask
    passed = np.zeros(len(attribute.sizes), bool)
    passed[pc.list_parent_indices(attribute.column).filter(mask).to_numpy()] = True
    return pa.array(passed, mask=attribute.sizes == 0)


def _unless(negated: object, mask: pa.Array) -> pa.Array:
    return pc.invert(mask) if negated else mask


_parser = Lark(GRAMMAR, parser="lalr", lexer="basic", maybe_placeholders=False)

"""Bags: columns that hold several values a row, as text with a separator between, as lists, or as lists in text."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from jaxrec.errors import UserError, shown

BETWEEN = chr(31)  # between the values of a Parquet list, once it is read: ASCII's unit separator
BRACKETS = {"[": "]", "(": ")", "{": "}"}


def read_bags(
    texts: Sequence[str | None], by: np.ndarray, separator: str, na: Sequence[str] | None,
    place: Callable[[int], str], called: str, notes: list[str],
) -> list[list[str | None]]:  # fmt: skip
    """The values of each distinct text of a column; one None, the unknown value, where there are none.

    Where every text is a list, as ``pandas.to_csv`` or JSON write one, they are read as lists; ``notes`` says so.

    Args:
        by: int[n], the text of each row.
        separator: between the values of a text; BETWEEN where they are lists already.
        place, called: what errors call the column in a row, from 0, and what notes call it.
    """
    nothing = {"", *(one.strip() for one in na or ())}
    filled = [text for text in texts if text and text.strip() not in nothing]
    lists = {text: parse_list(text) for text in filled
             if separator != BETWEEN and BRACKETS.get(text.strip()[0]) == text.strip()[-1]}  # fmt: skip
    if filled and len(lists) == len(filled):
        notes.append(f"{called}: texts such as {shown(filled[0])} are read as lists")
        odd, what = [text for text in filled if lists[text] is None], "no list of values as Python or JSON write one"
    else:
        # A text such as [a, b] among others may be a value; one that is a list to the letter is none.
        odd = [text for text, values in lists.items() if values and text.strip().startswith("[")]
        lists, what = {text: text.split(separator) for text in filled}, "a list as text among other texts"
    if odd:
        raise UserError(f"{place(int(np.flatnonzero(by == texts.index(odd[0]))[0]))}: found {shown(odd[0])}, {what}; "
                        "write all rows alike, with --bag-separator between the values")  # fmt: skip
    stripped = {text: [one.strip() for one in values or ()] for text, values in lists.items()}
    return [[one for one in stripped.get(text or "", ()) if one not in nothing] or [None] for text in texts]


def parse_list(text: str) -> list[str] | None:
    """The values of a list as text, without those that are nothing; None where it is none.

    >>> parse_list("['red', 'big']")
    ['red', 'big']
    """
    try:
        values = json.loads(text, parse_float=str)  # 1.50 is itself
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes that mean nothing, such as 'a\d'
                values = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    # NumPy writes no commas, and Python joins texts that stand side by side: ['a' 'b'] is not ['ab'].
    if not isinstance(values, (list, tuple, set)) or re.search(r"""[^\s,(\[{]['"]\s+['"]""", text):
        return None
    if any(isinstance(one, (list, tuple, set, dict, bytes, complex)) for one in values):
        return None
    texts = [str(one).lower() if isinstance(one, bool) else str(one).strip() for one in values if one is not None]
    return [one for one in texts if one]

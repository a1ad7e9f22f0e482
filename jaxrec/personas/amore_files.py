"""The JSON files of a shop: its products with their reviews, and the customers who wrote them, every value checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.cli.json_text import parse_json
from jaxrec.errors import UserError, nearest
from jaxrec.personas.rules import Choices, Range

CATEGORIES = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men"}
PRODUCT = ("product_id", "product_name", "price", "brand_name", "category", "rating", "reviews")
LARGEST = 1e30  # of a number: its square is still one, and as float32 it is finite
CUSTOMERS_FOR = "expected one customer a review, in their order"


class Shop(NamedTuple):
    """The products of the file, in its order, and their reviews, one after the other.

    Attributes:
        products, names: P texts; products are distinct.
        brands: P texts, None where empty.
        categories: P texts: names, or the number where it has none.
        prices: float64[P], 0 or more.
        ratings: float64[P]; nan is unknown.
        product: int64[n], the product of each review.
        texts: n texts, none empty.
    """

    products: list[str]
    names: list[str]
    brands: list[str | None]
    categories: list[str]
    prices: np.ndarray
    ratings: np.ndarray
    product: np.ndarray
    texts: list[str]


class Customers(NamedTuple):
    """The customer of each of n reviews.

    Attributes:
        ids: n distinct texts, or None where the file has none.
        personas: n names.
        attributes: by name: int64[n] or object[n] of text.
    """

    ids: list[str] | None
    personas: list[str]
    attributes: dict[str, np.ndarray]


def read_products(path: Path) -> Shop:
    """Read a list of products with their reviews."""
    entries = _load(path, "--raw")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: found {_short(entries)}; expected a list of products, each with {', '.join(PRODUCT)}")
    places: dict[str, int] = {}
    columns: list[tuple[Any, ...]] = []
    product: list[int] = []
    texts: list[str] = []
    for number, entry in enumerate(entries):
        place = f"{path}: products[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{place}: found {_short(entry)}; expected an object with {', '.join(PRODUCT)}")
        columns.append(_product(place, entry))
        name = columns[-1][0]
        if name in places:
            raise UserError(f"{place}.product_id: found '{name}', which products[{places[name]}] has too; give each "
                            "product its own")  # fmt: skip
        places[name] = number
        texts += _reviews(place, entry["reviews"])
        product += [number] * (len(texts) - len(product))
    ids, names, brands, categories, prices, ratings = map(list, zip(*columns, strict=True))
    numbers = np.array([prices, ratings], np.float64)
    return Shop(ids, names, brands, categories, numbers[0], numbers[1], np.array(product, np.int64), texts)


def _product(place: str, entry: dict[str, Any]) -> tuple[Any, ...]:
    """The values of one product, in the order of ``Shop``, without its reviews."""
    for field in PRODUCT:
        if field not in entry:
            raise UserError(f"{place}.{field}: missing{nearest(field, entry)}; a product has {', '.join(PRODUCT)}")
    category = entry["category"]
    if isinstance(category, bool) or not isinstance(category, int):
        category = _text(f"{place}.category", category, "a whole number, or text")
    rating = entry["rating"]
    return (
        _text(f"{place}.product_id", entry["product_id"]),
        _text(f"{place}.product_name", entry["product_name"]),
        None if entry["brand_name"] in ("", None) else _text(f"{place}.brand_name", entry["brand_name"]),
        CATEGORIES.get(category, str(category)),
        _number(f"{place}.price", entry["price"]),
        math.nan if rating is None else _number(f"{place}.rating", rating, "a number, 0 or more, or null"),
    )


def _reviews(place: str, reviews: Any) -> list[str]:
    if not isinstance(reviews, list):
        raise UserError(f"{place}.reviews: found {_short(reviews)}; expected a list of objects with content")
    if not reviews:
        raise UserError(f"{place}.reviews: no reviews; expected at least one a product; leave the product out")
    texts = []
    for number, review in enumerate(reviews):
        if not isinstance(review, dict):
            raise UserError(f"{place}.reviews[{number}]: found {_short(review)}; expected an object with content")
        if "content" not in review:
            hint = nearest("content", review)
            raise UserError(f"{place}.reviews[{number}].content: missing{hint}; give the text, or leave the review out")
        advice = "text that is not empty; leave the review out"
        texts.append(_text(f"{place}.reviews[{number}].content", review["content"], advice))
    return texts


def read_customers(path: Path, shop: Shop, kinds: Mapping[str, Range | Choices]) -> Customers:
    """Read the customers of the shop's reviews.

    Args:
        kinds: the attributes that each has to have: whole numbers or text.
    """
    entries = _load(path, "--customers")
    if not isinstance(entries, list):
        raise UserError(f"{path}: found {_short(entries)}; expected a list of customers")
    if len(entries) != len(shop.texts):
        raise UserError(f"{path}: {len(entries)} customers for {len(shop.texts)} reviews; {CUSTOMERS_FOR}")
    wanted = ("purchased_product_id", "persona_name", *kinds)
    for number, entry in enumerate(entries):
        place = f"{path}: customers[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{place}: found {_short(entry)}; expected an object with {', '.join(wanted)}")
        for field in wanted:
            if field not in entry:
                raise UserError(f"{place}.{field}: missing{nearest(field, entry)}; a customer has {', '.join(wanted)}")
        _check_product(f"{place}.purchased_product_id", entry["purchased_product_id"], number, shop)
    attributes = {name: _attribute(path, name, kind, entries) for name, kind in kinds.items()}
    names = [_text(f"{path}: customers[{i}].persona_name", entry["persona_name"]) for i, entry in enumerate(entries)]
    return Customers(_ids(path, entries), names, attributes)


def _check_product(place: str, found: Any, number: int, shop: Shop) -> None:
    expected = shop.products[shop.product[number]]
    if found == expected:
        return
    if not isinstance(found, str) or found not in shop.products:
        hint = nearest(found, shop.products) if isinstance(found, str) else ""
        raise UserError(f"{place}: found {_short(found)}, which no product of --raw has{hint}; correct it")
    raise UserError(f"{place}: found '{found}', but review {number} is of '{expected}'; {CUSTOMERS_FOR}")


def _attribute(path: Path, name: str, kind: Range | Choices, entries: list[dict[str, Any]]) -> np.ndarray:
    """int64[n] or object[n]."""
    numeric = isinstance(kind, Range)
    values = np.empty(len(entries), np.int64 if numeric else object)
    for number, entry in enumerate(entries):
        value, place = entry[name], f"{path}: customers[{number}].{name}"
        if not numeric:
            values[number] = _text(place, value)
        elif isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**53:
            raise UserError(f"{place}: found {_short(value)}; expected a whole number")
        else:
            values[number] = value
    return values


def _ids(path: Path, entries: list[dict[str, Any]]) -> list[str] | None:
    """The customers' own ids, where they have any."""
    if not any("user_id" in entry for entry in entries):
        return None
    places: dict[str, int] = {}
    for number, entry in enumerate(entries):
        place = f"{path}: customers[{number}].user_id"
        name = _text(place, entry.get("user_id"))
        if name in places:
            raise UserError(f"{place}: found '{name}', which customers[{places[name]}] has too; give each its own")
        places[name] = number
    return list(places)


def _load(path: Path, option: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason}); check {option}") from None
    return parse_json(text, str(path), "mend or fetch the file again")


def _text(place: str, value: Any, expected: str = "text that is not empty") -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: found {_short(value)}; expected {expected}")
    try:
        value.encode()
    except UnicodeEncodeError:  # \ud83d alone: JSON can say it, UTF-8 cannot
        raise UserError(f"{place}: found {_short(value)}, half of a character; expected valid Unicode") from None
    return value


def _number(place: str, value: Any, expected: str = "a number, 0 or more") -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LARGEST:
        raise UserError(f"{place}: found {_short(value)}; expected {expected}")
    return float(value)


def _short(value: Any) -> str:
    """A value as JSON on one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:57]}…"

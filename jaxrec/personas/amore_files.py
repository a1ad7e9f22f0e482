"""The JSON files of a shop: its products with their reviews, and the customers who wrote them, every value checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field
from typing_extensions import TypedDict

from jaxrec.cli.json_text import parse_json
from jaxrec.errors import UserError, nearest, shown
from jaxrec.personas.rules import Range, Text, Whole, validated

CATEGORIES = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men"}
LARGEST = 1e30  # of a number: its square is still one, and as float32 it is finite
CUSTOMERS_FOR = "expected one customer a review, in their order"
Amount = Annotated[float, Field(strict=True, ge=0, le=LARGEST)]


class _Review(BaseModel):
    content: Text


class _Product(BaseModel):
    """A product of the file; further entries do not matter."""

    product_id: Text
    product_name: Text
    price: Amount
    brand_name: Annotated[Text | None, BeforeValidator(lambda name: None if name == "" else name)]
    category: Annotated[Text, BeforeValidator(lambda one: CATEGORIES.get(one, str(one)) if type(one) is int else one)]
    rating: Amount | None
    reviews: Annotated[list[_Review], Field(min_length=1)]


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
    advice = f"; expected a list of products, each with {', '.join(_Product.model_fields)}"
    kind = Annotated[list[_Product], Field(min_length=1)]
    products = validated(kind, _load(path, "--raw"), f"{path}: products", advice)
    _check_distinct(f"{path}: products", "product_id", [one.product_id for one in products])
    return Shop(
        products=[one.product_id for one in products],
        names=[one.product_name for one in products],
        brands=[one.brand_name for one in products],
        categories=[one.category for one in products],
        prices=np.array([one.price for one in products], np.float64),
        ratings=np.array([math.nan if one.rating is None else one.rating for one in products], np.float64),
        product=np.repeat(np.arange(len(products)), [len(one.reviews) for one in products]),
        texts=[review.content for one in products for review in one.reviews],
    )


def read_customers(path: Path, shop: Shop, kinds: Mapping[str, Any]) -> Customers:
    """Read the customers of the shop's reviews.

    Args:
        kinds: the attributes that each has to have, as rules have them: whole numbers or text.
    """
    attributes: dict[str, Any] = {name: Whole if isinstance(kind, Range) else Text for name, kind in kinds.items()}
    fields = {"purchased_product_id": Text, "persona_name": Text, "user_id": NotRequired[Text]} | attributes
    customer = TypedDict("customer", fields)  # type: ignore[misc]
    advice = f"; expected a list of customers, each with {', '.join(fields)}"
    entries = validated(list[customer], _load(path, "--customers"), f"{path}: customers", advice)
    if len(entries) != len(shop.texts):
        raise UserError(f"{path}: {len(entries)} customers for {len(shop.texts)} reviews; {CUSTOMERS_FOR}")
    for number, entry in enumerate(entries):
        found, expected = entry["purchased_product_id"], shop.products[shop.product[number]]
        place = f"{path}: customers.{number}.purchased_product_id: found {shown(found)}"
        if found not in shop.products:
            raise UserError(f"{place}, which no product of --raw has{nearest(found, shop.products)}; correct it")
        if found != expected:
            raise UserError(f"{place}, but review {number} is of '{expected}'; {CUSTOMERS_FOR}")
    ids = [entry["user_id"] for entry in entries if "user_id" in entry]
    if 0 < len(ids) < len(entries):
        raise UserError(f"{path}: {len(ids)} of {len(entries)} customers have a user_id; give one to each, or to none")
    _check_distinct(f"{path}: customers", "user_id", ids)
    columns = {name: np.empty(len(entries), np.int64 if isinstance(kind, Range) else object)
               for name, kind in kinds.items()}  # fmt: skip
    for name, column in columns.items():
        column[:] = [entry[name] for entry in entries]
    return Customers(ids or None, [entry["persona_name"] for entry in entries], columns)


def _check_distinct(place: str, field: str, names: list[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if first.setdefault(name, number) != number:
            raise UserError(f"{place}.{number}.{field}: found {shown(name)}, which {first[name]} has too; give each "
                            "its own")  # fmt: skip


def _load(path: Path, option: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason}); check {option}") from None
    return parse_json(text, str(path), "mend or fetch the file again")

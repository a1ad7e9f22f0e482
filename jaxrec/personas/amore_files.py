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
from jaxrec.errors import UserError, shown
from jaxrec.personas.rules import Range, Text, Whole, validated

CATEGORIES = {97: "Skincare", 98: "Makeup", 99: "Perfume", 101: "Accessories", 103: "Men"}
Amount = Annotated[float, Field(strict=True, ge=0, le=1e30)]  # whose square is still a number, and finite as float32


class Review(BaseModel):
    """A review; further entries of the file do not matter."""

    content: Text


class Product(BaseModel):
    """A product; the category is a name, or the number where it has none."""

    product_id: Text
    product_name: Text
    price: Amount
    brand_name: Annotated[Text | None, BeforeValidator(lambda name: None if name == "" else name)]
    category: Annotated[Text, BeforeValidator(lambda one: CATEGORIES.get(one, str(one)) if type(one) is int else one)]
    rating: Amount | None
    reviews: Annotated[list[Review], Field(min_length=1)]


class Shop(NamedTuple):
    """The products of the file, in its order, and their reviews, one after the other."""

    products: list[Product]
    product: np.ndarray  # int64[n], the product of each review
    texts: list[str]  # n, none empty

    def numbers(self, name: str) -> np.ndarray:
        """float64[P]; nan is unknown."""
        values = [getattr(product, name) for product in self.products]
        return np.array([math.nan if value is None else value for value in values], np.float64)


class Customers(NamedTuple):
    """The customer of each of n reviews."""

    ids: list[str] | None  # distinct; None where the file has none
    personas: list[str]  # names
    attributes: dict[str, np.ndarray]  # by name: int64[n] or object[n] of text


def read_products(path: Path) -> Shop:
    """Read a list of products with their reviews."""
    advice = f"; expected a list of products, each with {', '.join(Product.model_fields)}"
    kind = Annotated[list[Product], Field(min_length=1)]
    products = validated(kind, _load(path, "--raw"), f"{path}: products", advice)
    _check_distinct(f"{path}: products", "product_id", [one.product_id for one in products])
    texts = [review.content for one in products for review in one.reviews]
    return Shop(products, np.repeat(np.arange(len(products)), [len(one.reviews) for one in products]), texts)


def read_customers(path: Path, shop: Shop, kinds: Mapping[str, Any]) -> Customers:
    """Read the customers of the shop's reviews, each with the attributes ``kinds``, as rules have them."""
    attributes: dict[str, Any] = {name: Whole if isinstance(kind, Range) else Text for name, kind in kinds.items()}
    fields = {"purchased_product_id": Text, "persona_name": Text, "user_id": NotRequired[Text]} | attributes
    customer = TypedDict("customer", fields)  # type: ignore[misc]
    advice = f"; expected a list of customers, each with {', '.join(fields)}"
    entries = validated(list[customer], _load(path, "--customers"), f"{path}: customers", advice)
    if len(entries) != len(shop.texts):
        raise UserError(f"{path}: {len(entries)} customers for {len(shop.texts)} reviews; give one a review, in their "
                        "order")  # fmt: skip
    for number, (entry, product) in enumerate(zip(entries, shop.product, strict=True)):
        found, expected = entry["purchased_product_id"], shop.products[product].product_id
        if found != expected:
            raise UserError(f"{path}: customers.{number}.purchased_product_id: found {shown(found)}, but review "
                            f"{number} is of '{expected}'; expected one customer a review, in their order")  # fmt: skip
    ids = [entry["user_id"] for entry in entries if "user_id" in entry]
    if 0 < len(ids) < len(entries):
        raise UserError(f"{path}: {len(ids)} of {len(entries)} customers have a user_id; give one to each, or to none")
    _check_distinct(f"{path}: customers", "user_id", ids)
    columns = {name: np.array([entry[name] for entry in entries], np.int64 if isinstance(kind, Range) else object)
               for name, kind in kinds.items()}  # fmt: skip
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

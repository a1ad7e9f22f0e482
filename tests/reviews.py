"""Made-up products, reviews of known personas in Korean and English, and embeddings that need no model."""

from __future__ import annotations

import json
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

WIDTH = 48
WORDS = {
    "Dry_Winter": ["건조한", "보습이", "겨울에", "악건성이라", "dry", "winter", "moisture", "hydrating"],
    "Anti_Aging": ["쫀쫀한", "탄력이", "주름", "광채", "wrinkles", "firming", "elasticity", "anti-aging"],
    "Gift_Buyer": ["선물로", "패키징도", "포장이", "할인", "gift", "present", "packaging", "birthday"],
    "Loyal_Repurchase": ["재구매", "꾸준히", "만족", "배송도", "again", "repurchase", "always", "delivery"],
    "Sensitive_Calming": ["민감한", "진정", "자극", "장벽", "sensitive", "calming", "redness", "irritation"],
    "Detail_Reviewer": ["제형이", "흡수", "텍스처", "발림성", "texture", "absorbs", "ingredients", "formula"],
}
COMMON = ["피부에", "정말", "좋아요", "제품", "skin", "really", "nice", "product", "the", "and"]
CATEGORIES = (97, 98, 99, 101, 103, 105)


def made_texts(each: int, seed: int = 0, names: tuple[str, ...] = tuple(WORDS)) -> tuple[list[str], np.ndarray]:
    """``each`` reviews of each persona, mixed, and int[n], the place of each one's persona in ``names``."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(len(names)), each))
    texts = []
    for persona in truth:
        words = [*random.choice(WORDS[names[persona]], 5, replace=False), *random.choice(COMMON, 4, replace=False)]
        texts.append(" ".join(random.permutation(words)) + f" {random.integers(1000)}.")
    return texts, truth


def fake_embed(texts: list[str], model: str, **_: Any) -> np.ndarray:
    """float16[n, WIDTH]: the mean of a random vector of each word."""

    def mean(words: list[str]) -> Any:
        return np.mean([np.random.default_rng(zlib.crc32(w.encode())).normal(size=WIDTH) for w in words], axis=0)

    return np.array([mean(re.findall(r"[^\W\d_]+", text) or [text]) for text in texts], np.float16)


def fake_encoding(patch: pytest.MonkeyPatch) -> None:
    """Embeddings from words, without torch."""
    text = ModuleType("jaxrec.data.text.encoding")
    text.embed = fake_embed  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "jaxrec.data.text.encoding", text)


def made_products(texts: list[str], products: int = 7) -> list[dict[str, Any]]:
    """Products of as many reviews each as can be, in the shape of the shop's file."""
    parts = np.array_split(np.array(texts, object), products)
    return [
        {"product_id": f"p{n:03d}-{'가' * (n % 3)}", "product_name": f"크림 {n}", "price": 1000 * (n + 1),
         "brand_name": ["헤라", "이니스프리", ""][n % 3], "category": CATEGORIES[n % len(CATEGORIES)],
         "sub_category": 0, "rating": None if n == 1 else 4 + n / 10,
         "reviews": [{"reviewer": "", "rating": 0, "content": text} for text in part]}
        for n, part in enumerate(parts)
    ]  # fmt: skip


def made_customers(products: list[dict[str, Any]], truth: np.ndarray) -> list[dict[str, Any]]:
    """A customer for each review, in the shape of the shop's file."""
    bought = [product["product_id"] for product in products for _ in product["reviews"]]
    return [
        {"user_id": f"c{number}", "persona_name": list(WORDS)[persona], "age": 20 + number % 30,
         "gender": "FM"[number % 2], "skin_type": "dry", "skin_concern": "wrinkle", "purchased_product_id": product}
        for number, (persona, product) in enumerate(zip(truth.tolist(), bought, strict=True))
    ]  # fmt: skip


def write_json(file: Path, value: Any) -> Path:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return file

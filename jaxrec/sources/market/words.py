"""Names of the listings of the made-up market: categories, brands and styles."""

from __future__ import annotations

import numpy as np


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# c0 to c1 to the nouns of its c2. Every noun is there once, so that a name says which category it is of.
CATEGORIES: dict[str, dict[str, str]] = {
    "Women": {
        "Dresses": "gown sundress kaftan romper",
        "Jewelry": "ring necklace earrings bracelet brooch",
        "Handbags": "clutch tote satchel wallet",
        "Women's shoes": "heels sandals loafers slippers",
        "Tops": "blouse cardigan camisole tunic",
    },
    "Men": {
        "Outerwear": "parka blazer windbreaker vest",
        "Shirts": "polo henley jersey hoodie",
        "Bottoms": "jeans chinos shorts joggers",
        "Men's shoes": "sneakers boots brogues moccasins",
        "Men's accessories": "belt necktie cufflinks watch",
    },
    "Kids": {
        "Baby": "onesie bib pacifier swaddle",
        "Toys": "puzzle doll blocks kite",
        "Kids' clothes": "pajamas overalls leggings mittens",
        "Gear": "stroller crib highchair playmat",
    },
    "Home": {
        "Kitchen": "kettle skillet mug teapot",
        "Bedding": "quilt pillow duvet blanket",
        "Decor": "lamp vase mirror candle",
        "Furniture": "stool bookcase desk armchair",
    },
    "Electronics": {
        "Audio": "headphones speaker turntable amplifier",
        "Mobile": "phone charger tablet smartwatch",
        "Computers": "laptop keyboard monitor router",
        "Cameras": "camera lens tripod camcorder",
        "Video games": "console controller joystick cartridge",
    },
    "Beauty": {
        "Makeup": "lipstick mascara highlighter eyeliner",
        "Skin care": "serum moisturizer cleanser sunscreen",
        "Fragrance": "perfume cologne diffuser incense",
        "Hair care": "hairbrush shampoo wig scrunchie",
    },
    "Sports & outdoors": {
        "Cycling": "bicycle helmet pedals saddle",
        "Camping": "tent lantern hammock backpack",
        "Fitness": "dumbbell treadmill kettlebell trampoline",
        "Rackets & clubs": "putter racket bat paddle",
        "Winter sports": "skis snowboard goggles sled",
    },
    "Vintage & collectibles": {
        "Media": "vinyl cassette poster comic",
        "Paper": "postcard stamp map calendar",
        "Coins & medals": "coin medal pin token",
        "Figures": "figurine plush puppet marionette",
        "Antiques": "clock typewriter globe barometer",
    },
    "Handmade": {
        "Crafts": "yarn beads ribbon embroidery",
        "Art": "painting sculpture sketch mosaic",
        "Stationery": "journal stickers bookmark envelope",
        "Pets": "leash collar birdhouse aquarium",
        "Instruments": "guitar ukulele violin drum",
    },
}
STYLES = _words(
    "vintage floral leather striped velvet wooden silver golden handmade retro minimalist plaid quilted neon marble "
    "suede metallic rustic miniature embroidered transparent woolen oversized antique"
)
EXTRAS = _words("bundle lot set rare authentic limited edition nwt gift deluxe classic 2pc sale travel original")
ONSETS = _words("b br c ch d dr f fl g gl h j k l m n p pr qu r s st t tr v w z")
VOWELS = _words("a e i o u ae io ou")
ENDS = _words("l n r s th x nd va mo li ra ny co do")
SECOND_WORDS = ("House", "Studio", "Works", "Co", "Atelier")  # of brands

SIZED = ("Dresses", "Women's shoes", "Tops", "Outerwear", "Shirts", "Bottoms", "Men's shoes", "Kids' clothes")
SIZES = ("XS", "S (4-6)", "M (8-10)", "L (12-14)", "XL", "6.5 (37)", "8 (39)", "10 (43)")
COLOURS = ("black", "white", "red", "blue", "green", "yellow", "pink", "purple", "brown", "gray")
CONDITIONS = ("New", "Like new", "Good", "Fair", "Poor")
SHIPPERS = ("Buyer", "Seller")


def category_levels() -> tuple[list[str], list[str], list[str], np.ndarray, np.ndarray]:
    """The names of c0, c1 and c2, and for each c2 the index of its c0 and of its c1: int64[c2] each."""
    c0, c1, c2 = list(CATEGORIES), list[str](), list[str]()
    first, second = list[int](), list[int]()
    for index, inner in enumerate(CATEGORIES.values()):
        for name, nouns in inner.items():
            for noun in nouns.split():
                c2.append(noun)
                first.append(index)
                second.append(len(c1))
            c1.append(name)
    return c0, c1, c2, np.array(first), np.array(second)


def brand_words(n: int, random: np.random.Generator) -> list[str]:
    """``n`` different invented words that can be pronounced, some of them two words."""
    taken: dict[str, None] = dict.fromkeys(category_levels()[2])
    words: list[str] = []
    while len(words) < n:
        parts = [ONSETS, VOWELS, ONSETS, VOWELS, ENDS]
        word = "".join(part[random.integers(len(part))] for part in parts)
        if word not in taken:
            taken[word] = None
            second = f" {SECOND_WORDS[random.integers(len(SECOND_WORDS))]}" if random.random() < 0.15 else ""
            words.append(word.capitalize() + second)
    return words


def listing_texts(
    brand: np.ndarray, category: np.ndarray, style: np.ndarray, brands: list[str], random: np.random.Generator
) -> list[str]:
    """What the names say: brand, style and category in one of several orders, perhaps a word more, in any case.

    Args:
        brand: int[U], 0 for no brand, otherwise one more than the index into ``brands``.
        category, style: int[U].
        brands: as ``brand_words`` gives them.
        random: decides on all the rest.
    """
    nouns = category_levels()[2]
    order, case, extra = (random.integers(n, size=len(brand)) for n in (3, 4, 2 * len(EXTRAS)))
    texts = []
    for i in range(len(brand)):
        words = [STYLES[style[i]], nouns[category[i]]]
        if brand[i]:
            words.insert((0, 0, 1)[order[i]], brands[brand[i] - 1])
        elif order[i] == 2:
            words.reverse()
        if extra[i] < len(EXTRAS):
            words.append(EXTRAS[extra[i]])
        text = " ".join(words)
        texts.append((text, text.title(), text.lower(), text[0].upper() + text[1:])[case[i]])
    return texts

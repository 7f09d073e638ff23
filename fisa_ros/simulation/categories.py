"""The kinds of surface and object that simulated rooms are made of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of thing or stuff; `id` is its 1-based position in `CATEGORIES`, followed by `SITE_CATEGORIES`."""

    id: int
    name: str
    is_thing: bool


_STUFF = ('floor', 'wall', 'ceiling', 'window', 'rug', 'curtain')
_THINGS = (
    'door', 'chair', 'table', 'couch', 'bed', 'bookshelf', 'cabinet', 'lamp', 'plant', 'stool', 'trash can', 'barrel',
    'pallet', 'ladder', 'traffic cone', 'box', 'ball', 'bottle', 'cup', 'book', 'monitor', 'fire extinguisher',
    'picture', 'clock',
)  # fmt: skip

CATEGORIES: tuple[Category, ...] = tuple(
    Category(index + 1, name, name in _THINGS) for index, name in enumerate(_STUFF + _THINGS)
)
SITE_CATEGORIES: tuple[Category, ...] = tuple(
    Category(len(CATEGORIES) + index + 1, name, True)
    for index, name in enumerate(('forklift', 'wet floor sign', 'suitcase', 'tire', 'cable reel'))
)
"""What the sites have besides: no shipped model was trained with them, and the default vocabulary lacks them."""

CATEGORY_BY_NAME: dict[str, Category] = {category.name: category for category in (*CATEGORIES, *SITE_CATEGORIES)}

"""Random rooms: a floor plan furnished without overlaps, described as data."""

from dataclasses import dataclass

import numpy as np

from fisa_ros.simulation.furniture import AGAINST_WALL, FLOOR_STANDING, Item, Vector
from fisa_ros.simulation.materials import (
    WOODS,
    Material,
    bricked,
    paint,
    pick,
    plain,
    planked,
    speckled,
    striped,
    tiled,
)
from fisa_ros.simulation.site_items import SITE_ITEMS, warehouse_shell
from fisa_ros.simulation.small_items import ON_TOP, ON_WALL, curtain, door, rug, window
from fisa_ros.simulation.splits import SplitGenerator, split_of

STYLES = ('home', 'office', 'workshop')
SITES = ('warehouse',)
"""Styles that are not drawn: only who asks for them gets them. They have objects that no other style has."""
ALL_STYLES = (*STYLES, *SITES)
_CLEARANCE_M = 0.12

_WEIGHTS: dict[str, dict[str, float]] = {
    'home': {'trash can': 0.5, 'barrel': 0.15, 'pallet': 0.15, 'ladder': 0.4, 'traffic cone': 0.2},
    'office': {'bed': 0.1, 'barrel': 0.2, 'pallet': 0.2, 'table': 2.0, 'chair': 2.0, 'cabinet': 1.5},
    'workshop': {
        'bed': 0.1,
        'couch': 0.3,
        'barrel': 2.0,
        'pallet': 1.7,
        'ladder': 1.7,
        'traffic cone': 1.8,
        'box': 2.0,
    },
    'warehouse': {
        'bed': 0.0,
        'couch': 0.0,
        'lamp': 0.1,
        'plant': 0.2,
        'table': 0.5,
        'barrel': 1.5,
        'pallet': 1.5,
        'box': 1.5,
        **dict.fromkeys(SITE_ITEMS, 3.0),
    },
}


@dataclass(frozen=True, slots=True)
class Placement:
    """An item standing at `position` (m, its base centre) and turned by `yaw` (rad) about z."""

    item: Item
    position: Vector
    yaw: float


@dataclass(frozen=True, slots=True)
class Light:
    """A lamp at `position` (m) with grey level `diffuse` in [0, 1]."""

    position: Vector
    diffuse: float
    casts_shadow: bool


@dataclass(frozen=True, slots=True)
class Room:
    """A furnished room with its origin in the middle of the floor.

    Attributes:
        size: Extent (x, y, z) in m.
        floor, wall, ceiling: Looks of the shell.
        placements: Everything in it.
        lights: Lamps; `ambient` is the even light everywhere, in [0, 1].
    """

    size: Vector
    floor: Material
    wall: Material
    ceiling: Material
    placements: tuple[Placement, ...]
    lights: tuple[Light, ...]
    ambient: float


def _turned(extent: tuple[float, float], yaw: float) -> tuple[float, float]:
    """Return the axis-aligned extent of a rectangle turned by `yaw`."""
    c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
    return extent[0] * c + extent[1] * s, extent[0] * s + extent[1] * c


class _FloorPlan:
    """Keeps floor rectangles apart."""

    def __init__(self, rng: np.random.Generator, size: Vector) -> None:
        self.rng = rng
        self.size = size
        self.taken: list[tuple[float, float, float, float]] = []

    def reserve(self, x: float, y: float, extent: tuple[float, float]) -> bool:
        half_x, half_y = extent[0] / 2 + _CLEARANCE_M / 2, extent[1] / 2 + _CLEARANCE_M / 2
        if abs(x) + half_x > self.size[0] / 2 + 0.07 or abs(y) + half_y > self.size[1] / 2 + 0.07:
            return False
        if any(abs(x - ox) < half_x + ohx and abs(y - oy) < half_y + ohy for ox, oy, ohx, ohy in self.taken):
            return False
        self.taken.append((x, y, half_x, half_y))
        return True

    def against_wall(self, item: Item, tries: int = 12) -> Placement | None:
        for _ in range(tries):
            x, y, yaw = wall_spot(self.rng, self.size, item.footprint[0], item.footprint[1] / 2 + 0.03)
            if self.reserve(x, y, _turned(item.footprint, yaw)):
                return Placement(item, (x, y, 0.0), yaw)
        return None

    def anywhere(self, item: Item, tries: int = 12) -> Placement | None:
        for _ in range(tries):
            x = float(self.rng.uniform(-0.5, 0.5) * self.size[0])
            y = float(self.rng.uniform(-0.5, 0.5) * self.size[1])
            yaw = float(self.rng.uniform(-np.pi, np.pi))
            if self.reserve(x, y, _turned(item.footprint, yaw)):
                return Placement(item, (x, y, 0.0), yaw)
        return None

    def beside(self, other: Placement, item: Item) -> Placement | None:
        """Place `item` at one of the long sides of `other`, facing it."""
        side = float(self.rng.choice([-1.0, 1.0]))
        offset = (other.item.footprint[1] + item.footprint[1]) / 2 + 0.08
        c, s = np.cos(other.yaw), np.sin(other.yaw)
        along = float(self.rng.uniform(-0.25, 0.25) * other.item.footprint[0])
        x = other.position[0] + c * along - s * side * offset
        y = other.position[1] + s * along + c * side * offset
        yaw = other.yaw + (0.0 if side > 0 else np.pi) + float(self.rng.uniform(-0.3, 0.3))
        if self.reserve(float(x), float(y), _turned(item.footprint, yaw)):
            return Placement(item, (float(x), float(y), 0.0), yaw)
        return None


def wall_spot(rng: np.random.Generator, size: Vector, width: float, distance: float) -> tuple[float, float, float]:
    """Return (x, y, yaw) of an item whose back (its +y side) is `distance` from a random wall."""
    side = int(rng.integers(4))
    yaw = (0.0, -np.pi / 2, np.pi, np.pi / 2)[side]
    run = size[0] if side % 2 == 0 else size[1]
    reach = size[1] if side % 2 == 0 else size[0]
    along = float(rng.uniform(-1, 1) * max(0.0, run / 2 - width / 2 - 0.1))
    away = reach / 2 - distance
    x, y = ((along, away), (away, along), (along, -away), (-away, along))[side]
    return x, y, yaw


def _shell(rng: np.random.Generator, style: str) -> tuple[Material, Material, Material]:
    grey, brick = (0.55, 0.55, 0.55), (0.6, 0.32, 0.25)
    pale = (
        (0.88, 0.86, 0.8),
        (0.82, 0.87, 0.88),
        (0.9, 0.85, 0.7),
        (0.8, 0.86, 0.78),
        (0.93, 0.93, 0.93),
        (0.88, 0.8, 0.8),
    )
    kind = rng.random()
    if kind < (0.15 if style == 'workshop' else 0.65):
        floor = Material(paint(planked(rng), pick(rng, WOODS), 0.3), repeat=rng.uniform(1.0, 2.0), shininess=0.3)
    elif kind < 0.85:
        floor = Material(
            paint(tiled(rng), pick(rng, (grey, (0.7, 0.68, 0.62), (0.45, 0.42, 0.4))), 0.2), rng.uniform(0.8, 1.6)
        )
    else:
        floor = Material(paint(speckled(rng), pick(rng, (grey, (0.5, 0.42, 0.35), (0.3, 0.33, 0.4))), 0.12), 1.0, 0.0)
    kind = rng.random()
    if kind < 0.7:
        wall = Material(paint(plain(rng), pick(rng, pale, 0.05), 0.03), repeat=0.5, shininess=0.0)
    elif kind < 0.85:
        wall = Material(paint(striped(rng), pick(rng, pale, 0.05), 0.04), repeat=2.0, shininess=0.0)
    else:
        wall = Material(paint(bricked(rng), pick(rng, (brick, (0.8, 0.78, 0.75))), 0.2), repeat=1.2, shininess=0.0)
    over = plain(rng) if rng.random() < 0.6 else tiled(rng) * 0.5
    ceiling = Material(
        paint(over, pick(rng, ((0.95, 0.95, 0.94), (0.9, 0.9, 0.88)), 0.03), 0.08),
        repeat=0.8,
        shininess=0.0,
        emission=rng.uniform(0.15, 0.4),
    )
    return floor, wall, ceiling


def _wall_items(
    rng: np.random.Generator, looks: np.random.Generator, size: Vector, plan: _FloorPlan
) -> list[Placement]:
    placements: list[Placement] = []
    taken: list[tuple[float, float, float]] = []

    def hang(item: Item, z: float, distance: float, free_floor: float = 0.0) -> Placement | None:
        for _ in range(12):
            x, y, yaw = wall_spot(rng, size, item.footprint[0], distance)
            if any(np.hypot(x - ox, y - oy) < reach + item.footprint[0] / 2 for ox, oy, reach in taken):
                continue
            before_x, before_y = x + np.sin(yaw) * free_floor / 2, y - np.cos(yaw) * free_floor / 2
            if free_floor and not plan.reserve(before_x, before_y, _turned((item.footprint[0], free_floor), yaw)):
                continue
            taken.append((x, y, item.footprint[0] / 2 + 0.08))
            placements.append(Placement(item, (x, y, z), yaw))
            return placements[-1]
        return None

    for _ in range(1 if rng.random() < 0.8 else 2):
        hang(door(looks), 0.0, 0.02, free_floor=0.5)
    for _ in range(int(rng.integers(1, 4))):
        opening = window(looks)
        placed = hang(opening, float(rng.uniform(1.4, 1.6)), 0.02)
        if placed is not None and rng.random() < 0.65:
            cloth = curtain(looks)
            for side in (-1, 1):
                c, s = np.cos(placed.yaw), np.sin(placed.yaw)
                along = side * (opening.footprint[0] / 2 + 0.12)
                x = placed.position[0] + c * along + s * 0.1
                y = placed.position[1] + s * along - c * 0.1
                taken.append((float(x), float(y), cloth.footprint[0] / 2))
                placements.append(Placement(cloth, (float(x), float(y), 1.35), placed.yaw))
    for _ in range(int(rng.integers(0, 4))):
        hang(ON_WALL['picture'](looks), float(rng.uniform(1.4, 1.7)), 0.02)
    if rng.random() < 0.6:
        hang(ON_WALL['clock'](looks), float(rng.uniform(1.75, 2.05)), 0.03)
    return placements


def _small_items(rng: np.random.Generator, looks: np.random.Generator, carriers: list[Placement]) -> list[Placement]:
    placements = []
    names = list(ON_TOP)
    for carrier in carriers:
        for z, width, depth in carrier.item.tops:
            taken: list[tuple[float, float, float]] = []
            for _ in range(int(rng.integers(0, 5)) if width > 0.5 else int(rng.integers(0, 2))):
                item = ON_TOP[names[int(rng.choice(len(names), p=(0.22, 0.22, 0.2, 0.18, 0.09, 0.09)))]](looks)
                radius = max(item.footprint) / 2
                if 2 * radius > min(width, depth) * 1.3:
                    continue
                u = float(rng.uniform(-0.5, 0.5) * max(0.0, width - radius))
                v = float(rng.uniform(-0.5, 0.5) * max(0.0, depth - radius))
                if any(np.hypot(u - ou, v - ov) < radius + oradius for ou, ov, oradius in taken):
                    continue
                taken.append((u, v, radius))
                c, s = np.cos(carrier.yaw), np.sin(carrier.yaw)
                x, y = carrier.position[0] + c * u - s * v, carrier.position[1] + s * u + c * v
                yaw = carrier.yaw + float(rng.uniform(-0.6, 0.6))
                placements.append(Placement(item, (float(x), float(y), carrier.position[2] + z), yaw))
    return placements


def make_room(seed: int, style: str | None = None) -> Room:
    """Return the random room of `seed`; the same seed always gives the same room, of the split the seed belongs to.

    Args:
        seed: Any non-negative number.
        style: One of `ALL_STYLES`, or None to draw one of `STYLES`.

    Raises:
        ValueError: `style` is none of them.
    """
    if style is not None and style not in ALL_STYLES:
        raise ValueError(f'style must be one of {", ".join(ALL_STYLES)}, got {style!r}')
    rng = np.random.default_rng(seed)
    looks = SplitGenerator([seed, 1], split_of(seed))
    style = style or STYLES[int(rng.choice(3, p=(0.45, 0.3, 0.25)))]
    size = (float(rng.uniform(4.0, 6.5)), float(rng.uniform(4.0, 6.5)), float(rng.uniform(2.45, 2.9)))
    is_site = style in SITES
    floor, wall, ceiling = warehouse_shell(looks) if is_site else _shell(looks, style)
    plan = _FloorPlan(rng, size)
    placements = _wall_items(rng, looks, size, plan)
    builders = FLOOR_STANDING | SITE_ITEMS if is_site else FLOOR_STANDING
    names = list(builders)
    weights = np.array([_WEIGHTS[style].get(name, 1.0) for name in names])
    standing: list[Placement] = []
    for _ in range(int(rng.integers(8, 17))):
        item = builders[names[int(rng.choice(len(names), p=weights / weights.sum()))]](looks)
        placed = plan.against_wall(item) if item.category in AGAINST_WALL else plan.anywhere(item)
        if placed is None:
            continue
        standing.append(placed)
        if item.category == 'table' and item.height > 0.6:
            for _ in range(int(rng.integers(0, 3))):
                neighbour = plan.beside(placed, FLOOR_STANDING['chair'](looks))
                if neighbour is not None:
                    standing.append(neighbour)
    placements += standing
    placements += _small_items(rng, looks, standing)
    if rng.random() < 0.55:
        x, y = rng.uniform(-0.2, 0.2, 2) * np.asarray(size[:2])
        yaw = 0.0 if rng.random() < 0.6 else float(rng.uniform(-0.5, 0.5))
        placements.append(Placement(rug(looks), (float(x), float(y), 0.0), yaw))
    lights = tuple(
        Light(
            (float(rng.uniform(-0.35, 0.35) * size[0]), float(rng.uniform(-0.35, 0.35) * size[1]), size[2] - 0.25),
            float(rng.uniform(0.55, 0.85) if is_site else rng.uniform(0.35, 0.65)),
            casts_shadow=index == 0,
        )
        for index in range(int(rng.integers(1, 3)))
    )
    # A site is darker, with lamps that are brighter.
    ambient = float(rng.uniform(0.2, 0.3) if is_site else rng.uniform(0.25, 0.42))
    return Room(size, floor, wall, ceiling, tuple(placements), lights, ambient)

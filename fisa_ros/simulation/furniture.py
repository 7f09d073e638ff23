"""Builders of floor-standing objects: each returns boxes, cylinders and balls that look like the thing."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fisa_ros.simulation.materials import (
    FABRICS,
    Material,
    fabric,
    metal,
    paint,
    painted,
    pick,
    plain,
    plastic,
    striped,
    two_tone,
    wood,
)

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Part:
    """One primitive of an object.

    Attributes:
        shape: 'box', 'cylinder', 'sphere', 'ellipsoid' or 'capsule'.
        size: Full extents (x, y, z) in m; a cylinder has its axis along z and x = y = diameter.
        position: Centre in the object's frame in m; z = 0 is the surface that the object stands on.
        material: Its look.
        euler: Rotation about x, y, z in rad, applied in this order.
    """

    shape: str
    size: Vector
    position: Vector
    material: Material
    euler: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Item:
    """An object: its category, its parts, the ground it covers and the surfaces that can carry smaller objects.

    Attributes:
        category: Name in `CATEGORIES`.
        parts: The primitives.
        footprint: Extent (x, y) in m.
        height: Extent z in m.
        tops: Carrying surfaces as (z, x extent, y extent) in m, centred.
        look: The material that one would describe it by.
    """

    category: str
    parts: tuple[Part, ...]
    footprint: tuple[float, float]
    height: float
    tops: tuple[Vector, ...] = field(default=())
    look: Material | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """Adjectives that are true of it: the colour, then what it is made of."""
        if self.look is None:
            return ()
        return (self.look.color_name, self.look.kind) if self.look.kind else (self.look.color_name,)


Builder = Callable[[np.random.Generator], Item]


def _legs(width: float, depth: float, height: float, thickness: float, material: Material) -> list[Part]:
    x, y = width / 2 - thickness, depth / 2 - thickness
    return [
        Part('box', (thickness, thickness, height), (sx * x, sy * y, height / 2), material)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def chair(rng: np.random.Generator) -> Item:
    """Four legs, a seat and a back rest; wood or plastic; an office chair with a column now and then."""
    width, depth, seat = rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.48)
    height = seat + rng.uniform(0.4, 0.55)
    body = wood(rng) if rng.random() < 0.55 else plastic(rng)
    cushion = body if rng.random() < 0.5 else fabric(rng)
    parts = [Part('box', (width, depth, 0.05), (0, 0, seat), cushion)]
    if rng.random() < 0.25:
        dark = metal(rng)
        parts += [
            Part('cylinder', (0.06, 0.06, seat), (0, 0, seat / 2), dark),
            Part('box', (0.55, 0.06, 0.04), (0, 0, 0.04), dark),
            Part('box', (0.06, 0.55, 0.04), (0, 0, 0.04), dark),
        ]
    else:
        parts += _legs(width, depth, seat, rng.uniform(0.03, 0.05), body)
    back_y = depth / 2 - 0.02
    if rng.random() < 0.5:
        parts.append(Part('box', (width, 0.04, height - seat), (0, back_y, (height + seat) / 2), cushion))
    else:
        for x in np.linspace(-width / 2 + 0.03, width / 2 - 0.03, 4):
            parts.append(Part('box', (0.035, 0.035, height - seat), (float(x), back_y, (height + seat) / 2), body))
        parts.append(Part('box', (width, 0.045, 0.09), (0, back_y, height - 0.045), body))
    return Item('chair', tuple(parts), (width, depth), height, look=body)


def table(rng: np.random.Generator) -> Item:
    """A top on four legs, or a round top on a column."""
    height = rng.uniform(0.68, 0.78) if rng.random() < 0.75 else rng.uniform(0.38, 0.48)
    material = wood(rng) if rng.random() < 0.8 else painted(rng, ((0.92, 0.92, 0.9),))
    if rng.random() < 0.25:
        width = depth = rng.uniform(0.7, 1.1)
        parts = [
            Part('cylinder', (width, width, 0.04), (0, 0, height - 0.02), material),
            Part('cylinder', (0.09, 0.09, height), (0, 0, height / 2 - 0.02), material),
            Part('cylinder', (width / 2, width / 2, 0.04), (0, 0, 0.02), material),
        ]
    else:
        width, depth = rng.uniform(0.9, 1.7), rng.uniform(0.6, 0.9)
        parts = [Part('box', (width, depth, 0.045), (0, 0, height - 0.022), material)]
        parts += _legs(width, depth, height - 0.045, rng.uniform(0.04, 0.08), material)
    return Item('table', tuple(parts), (width, depth), height, ((height, width * 0.8, depth * 0.8),), look=material)


def couch(rng: np.random.Generator) -> Item:
    """Base, back, two arms and seat cushions in one fabric."""
    width, depth, seat = rng.uniform(1.4, 2.1), rng.uniform(0.8, 0.95), rng.uniform(0.38, 0.46)
    height, arm = rng.uniform(0.72, 0.9), rng.uniform(0.14, 0.22)
    cover = fabric(rng)
    cushion = cover if rng.random() < 0.6 else fabric(rng)
    parts = [
        Part('box', (width, depth, seat * 0.7), (0, 0, seat * 0.35 + 0.05), cover),
        Part('box', (width, 0.22, height), (0, depth / 2 - 0.11, height / 2), cover),
    ]
    parts += [
        Part('box', (arm, depth, seat + 0.18), (s * (width - arm) / 2, 0, seat / 2 + 0.09), cover) for s in (-1, 1)
    ]
    count = 2 if width < 1.7 else 3
    inner = (width - 2 * arm) / count
    for index in range(count):
        x = -width / 2 + arm + inner * (index + 0.5)
        parts.append(Part('box', (inner - 0.02, depth - 0.24, 0.14), (x, -0.1, seat), cushion))
    return Item('couch', tuple(parts), (width, depth), height, look=cover)


def bed(rng: np.random.Generator) -> Item:
    """Frame with head board, mattress, pillows and a blanket over part of it."""
    width, depth, height = rng.uniform(0.95, 1.7), rng.uniform(1.95, 2.1), rng.uniform(0.45, 0.55)
    frame = wood(rng)
    sheet = painted(rng, ((0.93, 0.93, 0.92), (0.88, 0.9, 0.95)))
    blanket = fabric(rng, (*FABRICS, (0.75, 0.7, 0.8), (0.55, 0.65, 0.8)))
    parts = [
        Part('box', (width, depth, 0.25), (0, 0, 0.175), frame),
        Part('box', (width - 0.06, depth - 0.06, 0.2), (0, 0, height - 0.1), sheet),
        Part('box', (width, 0.07, rng.uniform(0.8, 1.05)), (0, depth / 2, 0.45), frame),
        Part('box', (width, depth * rng.uniform(0.5, 0.68), 0.06), (0, -depth * 0.17, height + 0.02), blanket),
    ]
    for x in (0.0,) if width < 1.2 else (-width / 4, width / 4):
        parts.append(Part('ellipsoid', (0.55, 0.36, 0.2), (x, depth / 2 - 0.28, height + 0.07), sheet))
    return Item('bed', tuple(parts), (width, depth), 1.0, look=blanket)


def bookshelf(rng: np.random.Generator) -> Item:
    """An open frame with boards, filled with rows of book spines."""
    width, depth, height = rng.uniform(0.7, 1.2), rng.uniform(0.26, 0.36), rng.uniform(1.3, 2.0)
    material = wood(rng) if rng.random() < 0.7 else painted(rng, ((0.92, 0.92, 0.9),))
    parts = [Part('box', (width, 0.03, height), (0, depth / 2 - 0.015, height / 2), material)]
    parts += [Part('box', (0.035, depth, height), (s * width / 2, 0, height / 2), material) for s in (-1, 1)]
    shelves = int(rng.integers(4, 6))
    levels = np.linspace(0.05, height - 0.02, shelves)
    for z in levels:
        parts.append(Part('box', (width, depth, 0.03), (0, 0, float(z)), material))
    gap = float(levels[1] - levels[0])
    for z in levels[:-1]:
        x = -width / 2 + 0.04
        filled = width * rng.uniform(0.3, 0.95)
        while x < -width / 2 + filled - 0.12:
            run = float(rng.uniform(0.05, 0.14))
            tall = gap * rng.uniform(0.55, 0.85)
            spines = two_tone(striped(rng), pick(rng, FABRICS, 0.2), pick(rng, FABRICS, 0.2))
            parts.append(
                Part('box', (run, depth * 0.7, tall), (x + run / 2, -0.01, z + tall / 2), Material(spines, 6.0))
            )
            x += run
    return Item('bookshelf', tuple(parts), (width, depth), height, look=material)


def cabinet(rng: np.random.Generator) -> Item:
    """A closed box with door or drawer lines and knobs."""
    width, depth = rng.uniform(0.6, 1.2), rng.uniform(0.4, 0.55)
    height = rng.uniform(0.7, 0.95) if rng.random() < 0.6 else rng.uniform(1.6, 2.0)
    material = painted(rng, ((0.9, 0.9, 0.88), (0.75, 0.78, 0.76))) if rng.random() < 0.5 else wood(rng)
    knob, gap = metal(rng), painted(rng, ((0.12, 0.1, 0.08),))
    parts = [Part('box', (width, depth, height), (0, 0, height / 2), material)]
    rows, columns = (int(rng.integers(2, 4)), 1) if height < 1 and rng.random() < 0.5 else (1, 2)
    front = -depth / 2
    for column in range(columns + 1):
        x = -width / 2 + width * column / columns
        parts.append(Part('box', (0.015, 0.006, height * 0.96), (x, front, height / 2), gap))
    for row in range(rows + 1):
        parts.append(Part('box', (width, 0.006, 0.015), (0, front, height * row / rows), gap))
    for row in range(rows):
        for column in range(columns):
            x = 0.0 if columns == 1 else (-0.06 if column == 0 else 0.06)
            parts.append(Part('sphere', (0.045,) * 3, (x, front - 0.02, height * (row + 0.55) / rows), knob))
    tops = ((height, width * 0.8, depth * 0.7),) if height < 1 else ()
    return Item('cabinet', tuple(parts), (width, depth), height, tops, look=material)


def lamp(rng: np.random.Generator) -> Item:
    """A floor lamp: foot, pole and a glowing shade."""
    height, shade = rng.uniform(1.3, 1.7), rng.uniform(0.3, 0.45)
    pole = metal(rng)
    glow = Material(paint(plain(rng), pick(rng, ((0.98, 0.9, 0.68), (0.97, 0.94, 0.85)), 0.04), 0.05), emission=0.5)
    parts = (
        Part('cylinder', (0.28, 0.28, 0.03), (0, 0, 0.015), pole),
        Part('cylinder', (0.03, 0.03, height), (0, 0, height / 2), pole),
        Part('cylinder', (shade, shade, 0.26), (0, 0, height - 0.08), glow),
        Part('cylinder', (shade * 0.8, shade * 0.8, 0.06), (0, 0, height + 0.07), glow),
    )
    return Item('lamp', parts, (0.35, 0.35), height, look=pole)


def plant(rng: np.random.Generator) -> Item:
    """A pot with leaves: flat green ellipsoids around a stem."""
    pot, height = rng.uniform(0.24, 0.36), rng.uniform(0.6, 1.3)
    clay = painted(rng, ((0.7, 0.36, 0.22), (0.9, 0.88, 0.85), (0.3, 0.3, 0.32)))
    greens = ((0.12, 0.4, 0.12), (0.2, 0.5, 0.15), (0.1, 0.3, 0.15))
    leaves = [Material(paint(plain(rng), pick(rng, greens), 0.3)) for _ in range(2)]
    parts = [
        Part('cylinder', (pot, pot, pot * 0.9), (0, 0, pot * 0.45), clay),
        Part('cylinder', (pot * 1.12, pot * 1.12, 0.04), (0, 0, pot * 0.9), clay),
        Part('cylinder', (0.03, 0.03, height * 0.7), (0, 0, pot + height * 0.25), painted(rng, ((0.3, 0.2, 0.1),))),
    ]
    for _ in range(int(rng.integers(10, 20))):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.22)
        z = pot + rng.uniform(0.15, 1.0) * (height - pot)
        size = (rng.uniform(0.2, 0.34), rng.uniform(0.08, 0.16), 0.03)
        position = (radius * np.cos(angle), radius * np.sin(angle), z)
        euler = (rng.uniform(-0.5, 0.5), rng.uniform(-0.8, 0.1), angle)
        parts.append(Part('ellipsoid', size, position, leaves[int(rng.integers(2))], euler))
    return Item('plant', tuple(parts), (pot * 1.5, pot * 1.5), height)


def stool(rng: np.random.Generator) -> Item:
    """A round seat on three or four legs, without a back."""
    height, seat = rng.uniform(0.45, 0.75), rng.uniform(0.3, 0.38)
    material = wood(rng) if rng.random() < 0.6 else metal(rng)
    top = material if rng.random() < 0.5 else plastic(rng)
    parts = [Part('cylinder', (seat, seat, 0.05), (0, 0, height - 0.025), top)]
    legs = int(rng.integers(3, 5))
    for index in range(legs):
        angle = 2 * np.pi * index / legs
        x, y = seat * 0.42 * np.cos(angle), seat * 0.42 * np.sin(angle)
        parts.append(Part('cylinder', (0.035, 0.035, height), (x, y, height / 2 - 0.03), material))
    parts.append(Part('cylinder', (seat * 0.8, seat * 0.8, 0.02), (0, 0, height * 0.3), material))
    return Item('stool', tuple(parts), (seat, seat), height, look=material)


def trash_can(rng: np.random.Generator) -> Item:
    """A grey, black or green bin with a rim, sometimes with a lid and pedal."""
    width, height = rng.uniform(0.26, 0.38), rng.uniform(0.35, 0.65)
    body = plastic(rng, ((0.35, 0.36, 0.38), (0.12, 0.12, 0.13), (0.15, 0.35, 0.22)))
    dark = plastic(rng, ((0.06, 0.06, 0.07),))
    parts = [
        Part('cylinder', (width, width, height), (0, 0, height / 2), body),
        Part('cylinder', (width * 1.1, width * 1.1, 0.04), (0, 0, height), body),
        Part('cylinder', (width * 0.95, width * 0.95, 0.01), (0, 0, height + 0.02), dark),
    ]
    if rng.random() < 0.5:
        parts.append(Part('ellipsoid', (width * 1.05, width * 1.05, 0.16), (0, 0, height + 0.02), body))
    return Item('trash can', tuple(parts), (width * 1.1, width * 1.1), height, look=body)


def barrel(rng: np.random.Generator) -> Item:
    """An oil drum with rings."""
    width, height = rng.uniform(0.5, 0.6), rng.uniform(0.8, 0.95)
    body = metal(rng, ((0.1, 0.25, 0.6), (0.65, 0.3, 0.12), (0.2, 0.45, 0.3)))
    parts = [Part('cylinder', (width, width, height), (0, 0, height / 2), body)]
    for z in (0.02, height / 3, 2 * height / 3, height - 0.02):
        parts.append(Part('cylinder', (width * 1.06, width * 1.06, 0.04), (0, 0, z), body))
    return Item('barrel', tuple(parts), (width, width), height, ((height, width * 0.5, width * 0.5),), look=body)


def pallet(rng: np.random.Generator) -> Item:
    """Deck boards on three runners."""
    width, depth = 1.2, rng.uniform(0.8, 1.0)
    raw = Material(paint(plain(rng), pick(rng, ((0.76, 0.6, 0.4), (0.62, 0.5, 0.36))), 0.3), repeat=2.0)
    parts = [Part('box', (0.1, depth, 0.1), (x, 0, 0.05), raw) for x in (-0.52, 0.0, 0.52)]
    for y in np.linspace(-depth / 2 + 0.06, depth / 2 - 0.06, 6):
        parts.append(Part('box', (width, 0.11, 0.025), (0, float(y), 0.125), raw))
    return Item('pallet', tuple(parts), (width, depth), 0.14, ((0.14, 0.9, depth * 0.7),))


def ladder(rng: np.random.Generator) -> Item:
    """A step ladder: two leaning frames with rungs."""
    height, width, lean = rng.uniform(1.2, 1.9), rng.uniform(0.4, 0.5), rng.uniform(0.22, 0.3)
    rail = metal(rng, ((0.72, 0.73, 0.75), (0.85, 0.65, 0.1)))
    parts = []
    for side in (-1, 1):
        for x in (-width / 2, width / 2):
            y = side * lean * height / 4
            parts.append(Part('box', (0.05, 0.03, height), (x, y, height / 2), rail, (-side * lean / 2 * -1, 0, 0)))
    for z in np.arange(0.25, height - 0.05, 0.27):
        y = -lean / 2 * (height - z)
        parts.append(Part('box', (width, 0.08, 0.03), (0, float(y) * 0.98, float(z)), rail))
    return Item('ladder', tuple(parts), (width, lean * height), height, look=rail)


def traffic_cone(rng: np.random.Generator) -> Item:
    """Stacked rings of falling radius with white bands on a square foot."""
    height, base = rng.uniform(0.4, 0.75), rng.uniform(0.28, 0.38)
    orange = plastic(rng, ((0.95, 0.38, 0.05), (0.95, 0.3, 0.08)))
    white = painted(rng, ((0.95, 0.95, 0.95),))
    parts = [Part('box', (base, base, 0.03), (0, 0, 0.015), orange)]
    rings = 12
    for index in range(rings):
        fraction = index / rings
        diameter = base * 0.75 * (1 - 0.85 * fraction)
        material = white if 0.35 < fraction < 0.55 or 0.7 < fraction < 0.82 else orange
        z = 0.03 + height * (index + 0.5) / rings
        parts.append(Part('cylinder', (diameter, diameter, height / rings), (0, 0, z), material))
    return Item('traffic cone', tuple(parts), (base, base), height, look=orange)


def box(rng: np.random.Generator) -> Item:
    """A cardboard box with a strip of tape."""
    width, depth, height = rng.uniform(0.25, 0.6, 3)
    card = Material(paint(plain(rng), pick(rng, ((0.72, 0.54, 0.34), (0.64, 0.47, 0.3)), 0.06), 0.12))
    tape = painted(rng, ((0.85, 0.78, 0.6), (0.55, 0.4, 0.25)))
    parts = (
        Part('box', (width, depth, height), (0, 0, height / 2), card),
        Part('box', (0.06, depth + 0.004, height + 0.004), (0, 0, height / 2), tape),
    )
    return Item('box', parts, (width, depth), height, ((height, width * 0.6, depth * 0.6),), look=card)


def ball(rng: np.random.Generator) -> Item:
    """A ball, one colour or striped."""
    size = rng.uniform(0.16, 0.4)
    if rng.random() < 0.5:
        skin = plastic(rng)
    else:
        light, dark = (
            pick(rng, ((0.95, 0.95, 0.92), (0.95, 0.8, 0.2))),
            pick(rng, ((0.8, 0.15, 0.12), (0.1, 0.25, 0.6))),
        )
        skin = Material(two_tone(striped(rng), light, dark), repeat=3.0, shininess=0.4)
    return Item('ball', (Part('sphere', (size,) * 3, (0, 0, size / 2), skin),), (size, size), size, look=skin)


def fire_extinguisher(rng: np.random.Generator) -> Item:
    """A red cylinder with a black valve, hose and a label."""
    width, height = rng.uniform(0.15, 0.2), rng.uniform(0.42, 0.58)
    red = plastic(rng, ((0.8, 0.06, 0.05), (0.7, 0.05, 0.06)))
    black, label = plastic(rng, ((0.05, 0.05, 0.05),)), painted(rng, ((0.93, 0.93, 0.85),))
    parts = (
        Part('cylinder', (width, width, height * 0.78), (0, 0, height * 0.39), red),
        Part('ellipsoid', (width, width, height * 0.2), (0, 0, height * 0.78), red),
        Part('cylinder', (width * 1.02, width * 1.02, height * 0.2), (0, 0, height * 0.45), label),
        Part('cylinder', (0.05, 0.05, 0.1), (0, 0, height * 0.92), black),
        Part('box', (0.2, 0.04, 0.035), (0.04, 0, height), black),
        Part('capsule', (0.035, 0.035, height * 0.55), (width * 0.62, 0, height * 0.6), black),
    )
    return Item('fire extinguisher', parts, (width, width), height, look=red)


FLOOR_STANDING: dict[str, Builder] = {
    'chair': chair, 'table': table, 'couch': couch, 'bed': bed, 'bookshelf': bookshelf, 'cabinet': cabinet,
    'lamp': lamp, 'plant': plant, 'stool': stool, 'trash can': trash_can, 'barrel': barrel, 'pallet': pallet,
    'ladder': ladder, 'traffic cone': traffic_cone, 'box': box, 'ball': ball, 'fire extinguisher': fire_extinguisher,
}  # fmt: skip
AGAINST_WALL = frozenset({'couch', 'bed', 'bookshelf', 'cabinet'})

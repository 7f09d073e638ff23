"""Builders of objects that stand on furniture or hang on walls."""

import numpy as np

from fisa_ros.simulation.furniture import Builder, Item, Part
from fisa_ros.simulation.materials import (
    FABRICS,
    PLASTICS,
    Material,
    checked,
    fabric,
    grained,
    metal,
    paint,
    painted,
    pick,
    plain,
    plastic,
    speckled,
    striped,
    two_tone,
    wood,
)


def bottle(rng: np.random.Generator) -> Item:
    """Body, shoulder, neck and cap; green, brown or clear-blue."""
    width, height = rng.uniform(0.07, 0.1), rng.uniform(0.24, 0.34)
    glass = plastic(rng, ((0.1, 0.4, 0.18), (0.35, 0.18, 0.08), (0.55, 0.75, 0.85)))
    cap = plastic(rng, ((0.9, 0.9, 0.9), (0.8, 0.1, 0.1), (0.1, 0.2, 0.6)))
    label = painted(rng, ((0.93, 0.92, 0.85), (0.85, 0.3, 0.2)))
    parts = (
        Part('cylinder', (width, width, height * 0.6), (0, 0, height * 0.3), glass),
        Part('ellipsoid', (width, width, height * 0.3), (0, 0, height * 0.6), glass),
        Part('cylinder', (width * 1.03, width * 1.03, height * 0.2), (0, 0, height * 0.32), label),
        Part('cylinder', (width * 0.36, width * 0.36, height * 0.35), (0, 0, height * 0.8), glass),
        Part('cylinder', (width * 0.42, width * 0.42, height * 0.06), (0, 0, height * 0.98), cap),
    )
    return Item('bottle', parts, (width, width), height, look=glass)


def cup(rng: np.random.Generator) -> Item:
    """A mug with a dark inside and a handle."""
    width, height = rng.uniform(0.09, 0.12), rng.uniform(0.09, 0.13)
    china = plastic(rng, ((0.95, 0.95, 0.93), (0.2, 0.4, 0.7), (0.85, 0.3, 0.2), (0.9, 0.8, 0.3)))
    inside = painted(rng, ((0.2, 0.12, 0.07),))
    parts = (
        Part('cylinder', (width, width, height), (0, 0, height / 2), china),
        Part('cylinder', (width * 0.85, width * 0.85, 0.006), (0, 0, height), inside),
        Part('box', (0.045, 0.018, 0.018), (width * 0.68, 0, height * 0.78), china),
        Part('box', (0.045, 0.018, 0.018), (width * 0.68, 0, height * 0.28), china),
        Part('box', (0.016, 0.018, height * 0.6), (width * 0.86, 0, height * 0.53), china),
    )
    return Item('cup', parts, (width * 1.4, width), height, look=china)


def book(rng: np.random.Generator) -> Item:
    """One to three books lying on each other: coloured covers, pale pages."""
    width, depth = rng.uniform(0.18, 0.26), rng.uniform(0.24, 0.32)
    pages = painted(rng, ((0.93, 0.91, 0.84),))
    parts: list[Part] = []
    z = 0.0
    for _ in range(int(rng.integers(1, 4))):
        thickness = float(rng.uniform(0.03, 0.05))
        cover = fabric(rng, (*FABRICS, *PLASTICS))
        yaw = (0.0, 0.0, float(rng.uniform(-0.25, 0.25)))
        parts += [
            Part('box', (width, depth, thickness * 0.25), (0, 0, z + thickness * 0.12), cover, yaw),
            Part('box', (width * 0.95, depth * 0.95, thickness * 0.6), (0, 0, z + thickness * 0.5), pages, yaw),
            Part('box', (width, depth, thickness * 0.25), (0, 0, z + thickness * 0.88), cover, yaw),
        ]
        z += thickness
    return Item('book', tuple(parts), (width, depth), z, look=cover)


def monitor(rng: np.random.Generator) -> Item:
    """A dark frame with a glowing screen on a foot."""
    width = rng.uniform(0.48, 0.68)
    height = width * 0.6
    frame = plastic(rng, ((0.06, 0.06, 0.07),))
    shown = two_tone(
        striped(rng) if rng.random() < 0.4 else plain(rng),
        pick(rng, ((0.3, 0.5, 0.8), (0.85, 0.88, 0.92), (0.2, 0.25, 0.3))),
        pick(rng, ((0.1, 0.15, 0.3), (0.05, 0.06, 0.08))),
    )
    parts = (
        Part('box', (width, 0.035, height), (0, 0, 0.12 + height / 2), frame),
        Part('box', (width * 0.94, 0.006, height * 0.9), (0, -0.02, 0.12 + height / 2), Material(shown, 2.0, 0.4, 0.3)),
        Part('box', (0.06, 0.04, 0.14), (0, 0.02, 0.07), frame),
        Part('box', (0.24, 0.18, 0.015), (0, 0.02, 0.008), frame),
    )
    return Item('monitor', parts, (width, 0.2), 0.12 + height, look=frame)


def small_ball(rng: np.random.Generator) -> Item:
    """A ball of the size of a hand."""
    size, skin = rng.uniform(0.08, 0.14), plastic(rng)
    return Item('ball', (Part('sphere', (size,) * 3, (0, 0, size / 2), skin),), (size, size), size, look=skin)


def potted_plant(rng: np.random.Generator) -> Item:
    """A small plant for a table."""
    pot = rng.uniform(0.12, 0.16)
    clay = painted(rng, ((0.7, 0.36, 0.22), (0.9, 0.88, 0.85)))
    leaf = Material(paint(speckled(rng), pick(rng, ((0.12, 0.4, 0.12), (0.25, 0.5, 0.15))), 0.3))
    parts = [Part('cylinder', (pot, pot, pot), (0, 0, pot / 2), clay)]
    for _ in range(int(rng.integers(5, 9))):
        angle = rng.uniform(0, 2 * np.pi)
        position = (0.05 * np.cos(angle), 0.05 * np.sin(angle), pot + rng.uniform(0.03, 0.14))
        parts.append(Part('ellipsoid', (0.14, 0.06, 0.02), position, leaf, (0, -rng.uniform(0.2, 1.0), angle)))
    return Item('plant', tuple(parts), (pot, pot), pot + 0.2)


def door(rng: np.random.Generator) -> Item:
    """A leaf with panels in a frame, with a handle; hangs in the wall from the floor."""
    width, height = rng.uniform(0.8, 1.0), rng.uniform(1.95, 2.1)
    leaf = wood(rng) if rng.random() < 0.6 else painted(rng, ((0.92, 0.92, 0.9), (0.35, 0.45, 0.5)))
    panel = Material((leaf.rgb * 0.82).astype(np.uint8), leaf.repeat, leaf.shininess)
    handle = metal(rng, ((0.75, 0.7, 0.5), (0.7, 0.7, 0.72)))
    parts = [
        Part('box', (width + 0.14, 0.05, height + 0.07), (0, 0, height / 2 + 0.035), panel),
        Part('box', (width, 0.08, height), (0, 0, height / 2), leaf),
        Part('box', (0.12, 0.05, 0.03), (width / 2 - 0.1, -0.07, 1.0), handle),
    ]
    rows = int(rng.integers(1, 4))
    for row in range(rows):
        z = height * (row + 0.5) / rows
        parts.append(Part('box', (width * 0.65, 0.086, height / rows * 0.72), (0, 0, z), panel))
    return Item('door', tuple(parts), (width + 0.14, 0.1), height, look=leaf)


def window(rng: np.random.Generator) -> Item:
    """A white frame with bars around bright sky-blue panes."""
    width, height = rng.uniform(0.9, 1.7), rng.uniform(0.9, 1.3)
    frame = painted(rng, ((0.95, 0.95, 0.94), (0.4, 0.28, 0.18)))
    sky = Material(paint(plain(rng), pick(rng, ((0.62, 0.8, 0.95), (0.78, 0.87, 0.95)), 0.05), 0.1), emission=0.5)
    parts = [Part('box', (width, 0.04, height), (0, 0, 0), sky)]
    for z in (-height / 2, 0.0, height / 2):
        parts.append(Part('box', (width + 0.08, 0.08, 0.06), (0, 0, z), frame))
    for x in (-width / 2, 0.0, width / 2):
        parts.append(Part('box', (0.06, 0.08, height), (x, 0, 0), frame))
    return Item('window', tuple(parts), (width + 0.1, 0.1), height, look=frame)


def curtain(rng: np.random.Generator) -> Item:
    """Hanging cloth: a row of upright folds under a rod."""
    width, height = rng.uniform(0.35, 0.6), rng.uniform(1.7, 2.1)
    cloth = fabric(rng, ((0.6, 0.2, 0.22), (0.8, 0.75, 0.62), (0.25, 0.4, 0.5), (0.5, 0.35, 0.5), (0.4, 0.5, 0.35)))
    folds = int(width / 0.07)
    parts = [
        Part('cylinder', (0.09, 0.09, height), (float(x), 0.0, 0.0), cloth)
        for x in np.linspace(-width / 2, width / 2, folds)
    ]
    parts.append(Part('box', (width + 0.15, 0.03, 0.03), (0, -0.03, height / 2 + 0.02), metal(rng)))
    return Item('curtain', tuple(parts), (width + 0.1, 0.1), height, look=cloth)


def picture(rng: np.random.Generator) -> Item:
    """A framed abstract print."""
    width, height = rng.uniform(0.35, 0.9), rng.uniform(0.35, 0.8)
    shown = two_tone(
        (speckled, checked, striped, plain)[int(rng.integers(4))](rng),
        pick(rng, PLASTICS, 0.2),
        pick(rng, FABRICS, 0.2),
    )
    frame = wood(rng) if rng.random() < 0.5 else painted(rng, ((0.08, 0.08, 0.08), (0.8, 0.65, 0.3)))
    margin = painted(rng, ((0.93, 0.92, 0.88),))
    parts = (
        Part('box', (width, 0.03, height), (0, 0, 0), frame),
        Part('box', (width * 0.9, 0.034, height * 0.9), (0, 0, 0), margin),
        Part('box', (width * 0.7, 0.038, height * 0.7), (0, 0, 0), Material(shown, rng.uniform(1.0, 3.0))),
    )
    return Item('picture', parts, (width, 0.05), height, look=frame)


def clock(rng: np.random.Generator) -> Item:
    """A round wall clock with hands."""
    size = rng.uniform(0.26, 0.42)
    rim = plastic(rng, ((0.06, 0.06, 0.06), (0.7, 0.1, 0.1), (0.6, 0.6, 0.62)))
    face, hand = painted(rng, ((0.96, 0.96, 0.94),)), plastic(rng, ((0.03, 0.03, 0.03),))
    flat = (np.pi / 2, 0.0, 0.0)
    parts = [
        Part('cylinder', (size, size, 0.04), (0, 0, 0), rim, flat),
        Part('cylinder', (size * 0.88, size * 0.88, 0.046), (0, 0, 0), face, flat),
    ]
    for length in (0.36, 0.26):
        angle = rng.uniform(0, 2 * np.pi)
        x, z = size * length / 2 * np.sin(angle), size * length / 2 * np.cos(angle)
        parts.append(Part('box', (0.02, 0.05, size * length), (x, -0.003, z), hand, (0.0, angle, 0.0)))
    for tick in range(12):
        angle = tick * np.pi / 6
        x, z = size * 0.38 * np.sin(angle), size * 0.38 * np.cos(angle)
        parts.append(Part('box', (0.016, 0.05, 0.03), (x, -0.002, z), hand, (0.0, angle, 0.0)))
    return Item('clock', tuple(parts), (size, 0.05), size, look=rim)


def rug(rng: np.random.Generator) -> Item:
    """A flat carpet with a border."""
    width, depth = rng.uniform(1.2, 2.4), rng.uniform(0.9, 1.7)
    colors = ((0.55, 0.12, 0.12), (0.12, 0.2, 0.4), (0.7, 0.6, 0.4), (0.2, 0.4, 0.35))
    main, border = pick(rng, colors), pick(rng, colors, 0.2)
    pattern = (checked, striped, speckled)[int(rng.integers(3))](rng)
    inner = Material(two_tone(pattern, main, border), repeat=rng.uniform(0.7, 2.0))
    edge = Material(paint(grained(rng), border, 0.15))
    parts = (
        Part('box', (width, depth, 0.012), (0, 0, 0.006), edge),
        Part('box', (width * 0.86, depth * 0.82, 0.016), (0, 0, 0.008), inner),
    )
    return Item('rug', parts, (width, depth), 0.016, look=edge)


ON_TOP: dict[str, Builder] = {
    'bottle': bottle, 'cup': cup, 'book': book, 'monitor': monitor, 'ball': small_ball, 'plant': potted_plant,
}  # fmt: skip
ON_WALL: dict[str, Builder] = {'picture': picture, 'clock': clock}

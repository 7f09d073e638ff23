"""Builders of the objects of a site: five kinds that no other simulated room has, so that no model has met them."""

import numpy as np

from fisa_ros.simulation.furniture import Builder, Item, Part
from fisa_ros.simulation.materials import FABRICS, Material, metal, paint, painted, pick, plain, plastic, striped, wood

_SIDEWAYS = (0.0, np.pi / 2, 0.0)


def forklift(rng: np.random.Generator) -> Item:
    """A counterweight on four wheels with a seat, a cage of four posts, a mast and two forks in front."""
    width, depth = rng.uniform(0.75, 0.95), rng.uniform(1.1, 1.4)
    height = rng.uniform(1.7, 2.0)
    body = plastic(rng, ((0.95, 0.65, 0.08), (0.9, 0.35, 0.08), (0.2, 0.5, 0.3)))
    dark, steel = plastic(rng, ((0.07, 0.07, 0.08),)), metal(rng, ((0.25, 0.25, 0.27),))
    back, front = depth / 2, -depth / 2
    parts = [
        Part('box', (width, depth * 0.5, 0.55), (0, back - depth * 0.25, 0.45), body),
        Part('box', (width, depth * 0.55, 0.25), (0, front + depth * 0.27, 0.3), body),
        Part('box', (width * 0.5, 0.4, 0.1), (0, 0.1, 0.77), dark),
        Part('box', (width * 0.5, 0.08, 0.4), (0, 0.3, 0.95), dark),
        Part('box', (width, depth * 0.7, 0.05), (0, 0, height), dark),
    ]
    for x in (-width / 2 + 0.04, width / 2 - 0.04):
        parts.append(Part('box', (0.05, 0.05, height - 0.4), (x, front + depth * 0.15, height / 2 + 0.2), dark))
        parts.append(Part('box', (0.05, 0.05, height - 0.7), (x, back - depth * 0.16, height / 2 + 0.35), dark))
        parts.append(Part('box', (0.09, 0.1, height * 0.95), (x * 0.7, front - 0.05, height * 0.48), steel))
        parts.append(Part('box', (0.1, 0.7, 0.04), (x * 0.6, front - 0.4, 0.12), steel))
        for y in (front + 0.25, back - 0.25):
            parts.append(Part('cylinder', (0.4, 0.4, 0.14), (x, y, 0.2), dark, _SIDEWAYS))
    return Item('forklift', tuple(parts), (width, depth + 1.5), height, look=body)


def wet_floor_sign(rng: np.random.Generator) -> Item:
    """Two yellow boards that lean on each other, with a dark triangle and lines on each."""
    width, height = rng.uniform(0.3, 0.36), rng.uniform(0.6, 0.75)
    lean = rng.uniform(0.2, 0.28)
    yellow = plastic(rng, ((0.97, 0.85, 0.1), (0.98, 0.78, 0.08)))
    ink = plastic(rng, ((0.05, 0.05, 0.05), (0.75, 0.08, 0.06)))
    parts = []
    for side in (-1, 1):
        tilt = (side * lean, 0.0, 0.0)
        # What lies on a leaning board moves inward as it rises.
        foot = side * np.sin(lean) * height / 2
        parts.append(Part('box', (width, 0.025, height), (0, foot, height / 2), yellow, tilt))
        for share, size in ((0.72, 0.2), (0.63, 0.5), (0.42, 0.7), (0.3, 0.7)):
            y = 2 * foot * (1 - share) + side * 0.012
            parts.append(Part('box', (width * size, 0.012, height * 0.07), (0, y, height * share), ink, tilt))
    return Item('wet floor sign', tuple(parts), (width, 2 * lean * height), height, look=yellow)


def suitcase(rng: np.random.Generator) -> Item:
    """An upright shell with grooves on four small wheels, its handle pulled out."""
    width, depth, height = rng.uniform(0.4, 0.52), rng.uniform(0.22, 0.3), rng.uniform(0.55, 0.72)
    colors = ((0.75, 0.15, 0.35), (0.12, 0.45, 0.5), (0.55, 0.58, 0.62), (0.25, 0.15, 0.4), *FABRICS[:2])
    shell = plastic(rng, colors)
    groove = Material((shell.rgb * 0.6).astype(np.uint8), shell.repeat, 0.2)
    dark, bar = plastic(rng, ((0.06, 0.06, 0.07),)), metal(rng)
    parts = [
        Part('box', (width, depth, height), (0, 0, height / 2 + 0.05), shell),
        Part('box', (width * 1.01, 0.02, height * 1.01), (0, 0, height / 2 + 0.05), dark),
    ]
    for share in (-0.36, -0.18, 0.0, 0.18, 0.36):
        parts.append(Part('box', (0.02, depth * 1.02, height * 0.9), (width * share, 0, height / 2 + 0.05), groove))
    pulled = rng.uniform(0.2, 0.4)
    for x in (-0.09, 0.09):
        parts.append(Part('box', (0.02, 0.02, pulled), (x, depth * 0.35, height + 0.05 + pulled / 2), bar))
    parts.append(Part('box', (0.22, 0.03, 0.03), (0, depth * 0.35, height + 0.05 + pulled), dark))
    for x in (-width * 0.4, width * 0.4):
        for y in (-depth * 0.35, depth * 0.35):
            parts.append(Part('sphere', (0.06, 0.06, 0.06), (x, y, 0.03), dark))
    return Item('suitcase', tuple(parts), (width, depth), height, look=shell)


def tire(rng: np.random.Generator) -> Item:
    """One to three tires with rims lying on each other, or one that stands."""
    size, thickness = rng.uniform(0.55, 0.75), rng.uniform(0.18, 0.25)
    rubber = Material(paint(striped(rng), pick(rng, ((0.08, 0.08, 0.09), (0.14, 0.14, 0.15)), 0.03), 0.3), 4.0, 0.1)
    rim, hub = metal(rng, ((0.7, 0.71, 0.73), (0.85, 0.85, 0.86))), plastic(rng, ((0.2, 0.2, 0.22),))
    if rng.random() < 0.5:
        center = (0.0, 0.0, size / 2)
        parts = [
            Part('cylinder', (size, size, thickness), center, rubber, _SIDEWAYS),
            Part('cylinder', (size * 0.6, size * 0.6, thickness * 1.03), center, rim, _SIDEWAYS),
            Part('cylinder', (size * 0.18, size * 0.18, thickness * 1.08), center, hub, _SIDEWAYS),
        ]
        return Item('tire', tuple(parts), (thickness * 1.1, size), size, look=rubber)
    parts = []
    count = int(rng.integers(1, 4))
    for index in range(count):
        z = thickness * (index + 0.5)
        parts.append(Part('cylinder', (size, size, thickness * 0.94), (0, 0, z), rubber))
        parts.append(Part('cylinder', (size * 0.94, size * 0.94, thickness), (0, 0, z), hub))
    top = thickness * count
    parts.append(Part('cylinder', (size * 0.6, size * 0.6, 0.02), (0, 0, top), rim))
    return Item('tire', tuple(parts), (size, size), top, look=rubber)


def cable_reel(rng: np.random.Generator) -> Item:
    """Two round flanges with a wound cable between them, on its edge or lying."""
    size, width = rng.uniform(0.6, 0.95), rng.uniform(0.4, 0.6)
    flange = wood(rng) if rng.random() < 0.6 else painted(rng, ((0.15, 0.3, 0.6), (0.7, 0.2, 0.15)))
    colors = ((0.08, 0.08, 0.09), (0.85, 0.4, 0.1), (0.15, 0.35, 0.65))
    cable = Material(paint(striped(rng), pick(rng, colors), 0.35), repeat=6.0, shininess=0.2)
    bolt = metal(rng)
    wound = size * rng.uniform(0.55, 0.8)
    is_standing = rng.random() < 0.6
    euler = _SIDEWAYS if is_standing else (0.0, 0.0, 0.0)
    middle = size / 2 if is_standing else width / 2

    def along(shift: float) -> tuple[float, float, float]:
        return (shift, 0.0, middle) if is_standing else (0.0, 0.0, middle + shift)

    parts = [Part('cylinder', (wound, wound, width * 0.9), along(0.0), cable, euler)]
    for side in (-1, 1):
        parts.append(Part('cylinder', (size, size, 0.05), along(side * (width / 2 - 0.025)), flange, euler))
        parts.append(Part('cylinder', (size * 0.14, size * 0.14, 0.06), along(side * (width / 2 - 0.02)), bolt, euler))
    footprint, height = ((width, size), size) if is_standing else ((size, size), width)
    return Item('cable reel', tuple(parts), footprint, height, look=flange)


def warehouse_shell(rng: np.random.Generator) -> tuple[Material, Material, Material]:
    """Return floor, wall and ceiling of a warehouse: coated or bare concrete, sheet metal, a dark roof."""
    concrete = ((0.45, 0.46, 0.47), (0.3, 0.42, 0.36), (0.36, 0.38, 0.45))
    sheets = ((0.62, 0.66, 0.7), (0.5, 0.55, 0.6), (0.7, 0.66, 0.58))
    floor = Material(paint(plain(rng), pick(rng, concrete, 0.05), 0.12), repeat=0.6, shininess=0.5)
    wall = Material(paint(striped(rng), pick(rng, sheets, 0.05), 0.1), repeat=3.0, shininess=0.4)
    roof = pick(rng, ((0.3, 0.31, 0.33), (0.42, 0.43, 0.44)), 0.05)
    ceiling = Material(paint(striped(rng), roof, 0.2), repeat=1.0, shininess=0.1)
    return floor, wall, ceiling


SITE_ITEMS: dict[str, Builder] = {
    'forklift': forklift, 'wet floor sign': wet_floor_sign, 'suitcase': suitcase, 'tire': tire,
    'cable reel': cable_reel,
}  # fmt: skip

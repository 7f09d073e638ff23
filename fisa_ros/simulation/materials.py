"""Surface looks: small tileable patterns in the colours that a material typically has."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TEXTURE_SIZE = 64

Rgb = tuple[float, float, float]
Pattern = Callable[[np.random.Generator], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Material:
    """The look of one surface.

    Attributes:
        rgb: `(64, 64, 3)` uint8 tileable texture.
        repeat: Texture repetitions per metre along x and y.
        shininess: Specular strength in [0, 1].
        emission: Own light in [0, 1], for lamps and windows.
        kind: What it is made of, as an adjective; '' where nobody would say it.
    """

    rgb: NDArray[np.uint8]
    repeat: float = 1.0
    shininess: float = 0.1
    emission: float = 0.0
    kind: str = ''

    @property
    def color_name(self) -> str:
        """The everyday word for its mean colour."""
        return color_name(self.rgb.reshape(-1, 3).mean(0) / 255)


def _noise(rng: np.random.Generator, octaves: int = 4) -> NDArray[np.float32]:
    """Return tileable value noise `(64, 64)` in about [-1, 1]."""
    total = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), np.float32)
    for octave in range(octaves):
        cells = 4 << octave
        if cells > TEXTURE_SIZE:
            break
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += np.kron(grid, np.ones((TEXTURE_SIZE // cells,) * 2, np.float32)) / (octave + 1)
    return (total / 2).astype(np.float32)


def _ramp() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE]
    return rows, columns


def plain(rng: np.random.Generator) -> NDArray[np.float32]:
    """Even surface with a hint of noise."""
    return (0.12 * _noise(rng, 3)).astype(np.float32)


def speckled(rng: np.random.Generator) -> NDArray[np.float32]:
    """Carpet, plaster, terrazzo."""
    return (0.5 * rng.uniform(-1, 1, (TEXTURE_SIZE, TEXTURE_SIZE)) + 0.4 * _noise(rng)).astype(np.float32)


def striped(rng: np.random.Generator) -> NDArray[np.float32]:
    """Even stripes along one axis."""
    rows, columns = _ramp()
    axis = rows if rng.random() < 0.5 else columns
    period = int(rng.choice([8, 16, 32]))
    return np.where(axis % period < period // 2, 1.0, -1.0).astype(np.float32)


def checked(rng: np.random.Generator) -> NDArray[np.float32]:
    """Chequerboard."""
    rows, columns = _ramp()
    period = int(rng.choice([16, 32]))
    return np.where((rows // period + columns // period) % 2, 1.0, -1.0).astype(np.float32)


def grained(rng: np.random.Generator) -> NDArray[np.float32]:
    """Wood grain along x."""
    lines = np.repeat(rng.uniform(-1, 1, (TEXTURE_SIZE, 1)), TEXTURE_SIZE, 1)
    return (0.5 * lines + 0.25 * _noise(rng, 3)).astype(np.float32)


def planked(rng: np.random.Generator) -> NDArray[np.float32]:
    """Floor boards with dark joints."""
    pattern = grained(rng) * 0.6
    for row in range(0, TEXTURE_SIZE, 16):
        pattern[row : row + 16] += rng.uniform(-0.4, 0.4)
        pattern[row] = -1.0
        joint = int(rng.integers(TEXTURE_SIZE))
        pattern[row : row + 16, joint] = -1.0
    return pattern.astype(np.float32)


def tiled(rng: np.random.Generator) -> NDArray[np.float32]:
    """Square tiles with joints."""
    rows, columns = _ramp()
    period = int(rng.choice([16, 32]))
    joint = (rows % period == 0) | (columns % period == 0)
    shade = np.kron(rng.uniform(-0.25, 0.25, (TEXTURE_SIZE // period,) * 2), np.ones((period, period)))
    return np.where(joint, rng.choice([-1.0, 0.9]), shade + 0.1 * _noise(rng)).astype(np.float32)


def bricked(rng: np.random.Generator) -> NDArray[np.float32]:
    """Running-bond bricks with light joints."""
    rows, columns = _ramp()
    shifted = columns + 16 * ((rows // 8) % 2)
    joint = (rows % 8 == 0) | (shifted % 32 == 0)
    shade = np.kron(rng.uniform(-0.4, 0.3, (8, 2)), np.ones((8, 32)))
    return np.where(joint, 1.0, shade).astype(np.float32)


def paint(pattern: NDArray[np.float32], rgb: Rgb, contrast: float = 0.25) -> NDArray[np.uint8]:
    """Colour a pattern: `rgb` in [0, 1] where it is 0, `contrast` lighter where it is 1, darker where it is -1."""
    shaded = np.asarray(rgb, np.float32) * (1 + contrast * np.clip(pattern, -1.5, 1.5)[..., None])
    return (np.clip(shaded, 0, 1) * 255).astype(np.uint8)


def two_tone(pattern: NDArray[np.float32], light: Rgb, dark: Rgb) -> NDArray[np.uint8]:
    """Blend two colours in [0, 1] by a pattern in [-1, 1]."""
    weight = (np.clip(pattern, -1, 1)[..., None] + 1) / 2
    mixed = weight * np.asarray(light, np.float32) + (1 - weight) * np.asarray(dark, np.float32)
    return (mixed * 255).astype(np.uint8)


def vary(rng: np.random.Generator, rgb: Rgb, amount: float = 0.08) -> Rgb:
    """Return a colour near `rgb`: brightness and each channel moved by up to `amount`."""
    shift = rng.uniform(-amount, amount) + rng.uniform(-amount / 2, amount / 2, 3)
    red, green, blue = np.clip(np.asarray(rgb) + shift, 0.02, 1.0)
    return float(red), float(green), float(blue)


def pick(rng: np.random.Generator, colors: tuple[Rgb, ...], amount: float = 0.08) -> Rgb:
    """Return one of `colors`, varied."""
    return vary(rng, colors[int(rng.integers(len(colors)))], amount)


_COLOR_NAMES: dict[str, tuple[Rgb, ...]] = {
    'white': ((0.93, 0.93, 0.92),),
    'black': ((0.07, 0.07, 0.08),),
    'grey': ((0.3, 0.3, 0.31), (0.5, 0.5, 0.51), (0.68, 0.69, 0.7)),
    'red': ((0.8, 0.12, 0.1), (0.55, 0.15, 0.15)),
    'orange': ((0.95, 0.4, 0.08),),
    'yellow': ((0.95, 0.78, 0.15), (0.85, 0.68, 0.2)),
    'green': ((0.15, 0.42, 0.16), (0.2, 0.6, 0.3), (0.42, 0.52, 0.36), (0.2, 0.4, 0.32)),
    'blue': ((0.15, 0.33, 0.72), (0.2, 0.28, 0.46), (0.3, 0.44, 0.55), (0.58, 0.78, 0.92)),
    'purple': ((0.5, 0.34, 0.5), (0.35, 0.2, 0.5)),
    'brown': ((0.4, 0.25, 0.14), (0.28, 0.17, 0.1), (0.56, 0.38, 0.22), (0.44, 0.35, 0.27)),
    'beige': ((0.73, 0.57, 0.38), (0.8, 0.75, 0.62), (0.66, 0.6, 0.52)),
}


def color_name(rgb: NDArray[np.floating]) -> str:
    """Return the everyday word for a colour, `(3,)` in [0, 1]."""
    distances = {
        name: min(float(np.sum((np.asarray(example) - rgb) ** 2)) for example in examples)
        for name, examples in _COLOR_NAMES.items()
    }
    return min(distances, key=distances.__getitem__)


WOODS: tuple[Rgb, ...] = ((0.55, 0.36, 0.2), (0.4, 0.25, 0.14), (0.72, 0.54, 0.34), (0.3, 0.18, 0.1))
FABRICS: tuple[Rgb, ...] = (
    (0.45, 0.45, 0.48), (0.2, 0.28, 0.45), (0.5, 0.2, 0.18), (0.42, 0.34, 0.25), (0.2, 0.38, 0.3), (0.65, 0.6, 0.52),
)  # fmt: skip
PLASTICS: tuple[Rgb, ...] = (
    (0.85, 0.2, 0.15), (0.15, 0.35, 0.75), (0.95, 0.75, 0.1), (0.2, 0.6, 0.3), (0.9, 0.9, 0.88), (0.15, 0.15, 0.17),
)  # fmt: skip


def wood(rng: np.random.Generator) -> Material:
    """Grained wood in one of its usual colours."""
    return Material(paint(grained(rng), pick(rng, WOODS), 0.2), repeat=1.5, shininess=0.2, kind='wooden')


def fabric(rng: np.random.Generator, colors: tuple[Rgb, ...] = FABRICS) -> Material:
    """Upholstery: plain, speckled or striped."""
    pattern: Pattern = (plain, speckled, speckled, striped)[int(rng.integers(4))]
    return Material(paint(pattern(rng), pick(rng, colors), 0.15), repeat=2.0, shininess=0.0, kind='fabric')


def plastic(rng: np.random.Generator, colors: tuple[Rgb, ...] = PLASTICS) -> Material:
    """Smooth coloured plastic."""
    return Material(paint(plain(rng), pick(rng, colors), 0.08), shininess=0.5, kind='plastic')


def metal(rng: np.random.Generator, colors: tuple[Rgb, ...] = ((0.6, 0.61, 0.63), (0.3, 0.3, 0.32))) -> Material:
    """Brushed metal."""
    return Material(paint(grained(rng), pick(rng, colors, 0.06), 0.08), shininess=0.8, kind='metal')


def painted(rng: np.random.Generator, colors: tuple[Rgb, ...]) -> Material:
    """Even paint in one of `colors`."""
    return Material(paint(plain(rng), pick(rng, colors, 0.05), 0.06), shininess=0.2)

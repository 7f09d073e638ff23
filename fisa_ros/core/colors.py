"""Colours for classes and segments: the same name has the same colour in every frame and on every machine."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.class_names import name_key
from fisa_ros.core.results import Segment

Color = tuple[int, int, int]

# Lightness, chroma and hue (degrees) in Oklab, for words that have a colour in most people's minds and for those that
# are often seen together. Those of the indoor vocabulary are as far apart as that allows.
_FAMILIAR = {
    'ball': (0.71, 0.24, 330),
    'barrel': (0.60, 0.24, 263),
    'bed': (0.83, 0.11, 295),
    'book': (0.61, 0.25, 1),
    'bookshelf': (0.60, 0.20, 119),
    'bottle': (0.77, 0.18, 155),
    'box': (0.79, 0.17, 108),
    'building': (0.66, 0.07, 40),
    'cabinet': (0.71, 0.10, 124),
    'car': (0.66, 0.18, 255),
    'ceiling': (0.90, 0.02, 217),
    'chair': (0.70, 0.18, 38),
    'clock': (0.87, 0.15, 184),
    'couch': (0.72, 0.15, 352),
    'cup': (0.84, 0.15, 11),
    'curtain': (0.60, 0.17, 327),
    'door': (0.60, 0.05, 29),
    'fire extinguisher': (0.63, 0.25, 27),
    'floor': (0.73, 0.07, 44),
    'grass': (0.76, 0.19, 135),
    'ladder': (0.70, 0.18, 186),
    'lamp': (0.90, 0.22, 116),
    'monitor': (0.72, 0.18, 242),
    'pallet': (0.65, 0.15, 74),
    'person': (0.66, 0.21, 18),
    'picture': (0.81, 0.19, 328),
    'plant': (0.66, 0.22, 142),
    'road': (0.62, 0.10, 305),
    'rug': (0.60, 0.10, 280),
    'sand': (0.84, 0.10, 90),
    'sea': (0.60, 0.13, 245),
    'sidewalk': (0.70, 0.14, 330),
    'sky': (0.80, 0.10, 235),
    'snow': (0.94, 0.02, 230),
    'stool': (0.67, 0.18, 297),
    'table': (0.88, 0.21, 79),
    'traffic cone': (0.78, 0.25, 68),
    'trash can': (0.60, 0.15, 213),
    'tree': (0.62, 0.16, 148),
    'vegetation': (0.66, 0.15, 140),
    'wall': (0.72, 0.06, 283),
    'water': (0.68, 0.13, 240),
    'window': (0.80, 0.07, 204),
}
_LIGHTNESS = (0.66, 0.74, 0.82)
_CHROMA = (0.14, 0.18)
# Instances of one class take turns, so that neighbours can be told apart.
_INSTANCE_SHIFTS = ((0.0, 0), (-0.10, 12), (0.08, -12), (-0.05, -22), (0.04, 22))


def class_color(name: str) -> Color:
    """Return the rgb colour of a class, 0..255 each, readable on photographs; spelling in capitals does not matter."""
    return _instance_color(name_key(name), 0)


def segment_colors(segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """Return `(n, 3)` uint8 rgb, one row per segment: the colour of its class, varied between instances."""
    seen: Counter[str] = Counter()
    colors = np.zeros((len(segments), 3), np.uint8)
    for row, segment in enumerate(segments):
        key = name_key(segment.class_name)
        colors[row] = _instance_color(key, seen[key] % len(_INSTANCE_SHIFTS))
        seen[key] += 1
    return colors


@lru_cache(maxsize=4096)
def _instance_color(key: str, instance: int) -> Color:
    lightness, chroma, hue = _FAMILIAR.get(key) or _hashed(key)
    lightness_shift, hue_shift = _INSTANCE_SHIFTS[instance]
    return _oklch_to_rgb(min(lightness + lightness_shift, 0.95), chroma, hue + hue_shift)


def _hashed(key: str) -> tuple[float, float, float]:
    digest = hashlib.blake2b(key.encode(), digest_size=6).digest()
    hue = int.from_bytes(digest[:4], 'big') / 2**32 * 360
    return _LIGHTNESS[digest[4] % len(_LIGHTNESS)], _CHROMA[digest[5] % len(_CHROMA)], hue


def _oklch_to_rgb(lightness: float, chroma: float, hue: float) -> Color:
    """Convert from Oklab's polar form; chroma that no screen can show is reduced."""
    while True:
        linear = _oklab_to_linear_rgb(
            lightness, chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
        )
        if all(-1e-4 <= value <= 1.0 + 1e-4 for value in linear):
            red, green, blue = (_gamma(min(max(value, 0.0), 1.0)) for value in linear)
            return red, green, blue
        chroma *= 0.95


def _oklab_to_linear_rgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    l_ = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m_ = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s_ = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
        -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
        -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
    )


def _gamma(value: float) -> int:
    encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * encoded)

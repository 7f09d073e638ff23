"""Small text in pictures: TrueType where OpenCV has it (from 5.0), its line font before."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.colors import Color

_LINE_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LINE_FONT_HEIGHT_PX = 30.0


def _load_font() -> Any:
    return cv2.FontFace('sans') if hasattr(cv2, 'FontFace') else None


_FONT = _load_font()


@dataclass(frozen=True, slots=True)
class TextStyle:
    """Height of a line in pixels, and weight from 400 (regular) to 700 (bold)."""

    size_px: int
    weight: int = 600


def text_width(text: str, style: TextStyle) -> int:
    """Return the width in pixels that `draw_text` takes."""
    if _FONT is not None:
        x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _FONT, style.size_px, style.weight)
        return int(x + width)
    (width, _), _ = cv2.getTextSize(_ascii(text), _LINE_FONT, style.size_px / _LINE_FONT_HEIGHT_PX, 1)
    return int(width)


def draw_text(
    image: NDArray[np.uint8], text: str, baseline_xy: tuple[int, int], style: TextStyle, color: Color
) -> None:
    """Draw one line of text into an `(H, W, 3)` uint8 image; parts outside the image are cut."""
    if _FONT is not None:
        wrap = (0, 1 << 20)
        cv2.putText(image, text, baseline_xy, color, _FONT, style.size_px, style.weight, 0, wrap)
        return
    scale = style.size_px / _LINE_FONT_HEIGHT_PX
    thickness = max(1, round(style.size_px * style.weight / 9000))
    cv2.putText(image, _ascii(text), baseline_xy, _LINE_FONT, scale, color, thickness, cv2.LINE_AA)


def _ascii(text: str) -> str:
    return text.encode('ascii', 'replace').decode()

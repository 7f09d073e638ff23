"""Pictures of the demo: the node's overlays before and after each change, and an animation of both."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fisa_ros.pipeline.lettering import TextStyle, draw_text, text_width
from fisa_ros.tools.demo_record import PhaseRecord, Picture

MAX_ANIMATION_BYTES = 3_000_000

_WIDTH = 400
_CAPTION_HEIGHT = 44
_COLORS = 96
_MIN_STEP_MS, _MAX_STEP_MS = 40, 400
_PAPER, _INK, _FAINT = (22, 24, 30), (245, 245, 245), (170, 175, 185)
_TITLE, _WORDS = TextStyle(15, 700), TextStyle(13, 400)


def write_pictures(pictures: Sequence[Picture], phases: Sequence[PhaseRecord], out: Path) -> list[Path]:
    """Write the last overlay before and the first after each change; return the files."""
    paths = []
    for number, (old, new) in enumerate(pairwise(phases), start=1):
        before = [picture for picture in pictures if picture.version == old.vocabulary.version]
        after = [picture for picture in pictures if picture.version == new.vocabulary.version]
        for name, chosen in (('before', before[-1:]), ('after', after[:1])):
            for picture in chosen:
                paths.append(out / f'change_{number}_{name}.png')
                cv2.imwrite(str(paths[-1]), picture.image[..., ::-1])
    return paths


def write_animation(pictures: Sequence[Picture], phases: Sequence[PhaseRecord], path: Path) -> bool:
    """Write the overlays as an animation of at most `MAX_ANIMATION_BYTES`; return False if there are none."""
    phase_of = {record.vocabulary.version: record for record in phases}
    shown = [(picture, phase_of[picture.version]) for picture in pictures if picture.version in phase_of]
    while shown:
        frames = [Image.fromarray(_captioned(picture.image, phase)) for picture, phase in shown]
        stamps_ms = [picture.stamp_ns / 1e6 for picture, _ in shown]
        steps_ms = [
            round(min(max(later - earlier, _MIN_STEP_MS), _MAX_STEP_MS)) for earlier, later in pairwise(stamps_ms)
        ]
        palette = _palette(frames)
        indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        indexed[0].save(
            path, save_all=True, append_images=indexed[1:], duration=[*steps_ms, _MAX_STEP_MS], loop=0, optimize=False
        )
        if path.stat().st_size <= MAX_ANIMATION_BYTES:
            return True
        shown = shown[::2]
    return False


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """Return one palette for all frames: with one per frame, still colours would flicker."""
    samples = [np.asarray(frame)[::4, ::4] for frame in frames[:: max(1, len(frames) // 12)]]
    return Image.fromarray(np.concatenate(samples)).quantize(_COLORS, method=Image.Quantize.MEDIANCUT)


def _captioned(image: NDArray[np.uint8], phase: PhaseRecord) -> NDArray[np.uint8]:
    height = round(image.shape[0] * _WIDTH / image.shape[1])
    canvas = np.empty((height + _CAPTION_HEIGHT, _WIDTH, 3), np.uint8)
    canvas[:height] = cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    canvas[height:] = _PAPER
    names = [entry.name for entry in phase.vocabulary.classes]
    title = f'{phase.phase.name}: {len(names)} classes (version {phase.vocabulary.version})'
    draw_text(canvas, title, (8, height + 18), _TITLE, _INK)
    draw_text(canvas, _shortened(names, _WIDTH - 16), (8, height + 36), _WORDS, _FAINT)
    return canvas


def _shortened(names: Sequence[str], width_px: int) -> str:
    shown = len(names)
    while True:
        text = ', '.join(names[:shown]) + (', ...' if shown < len(names) else '')
        if shown <= 1 or text_width(text, _WORDS) <= width_px:
            return text
        shown -= 1

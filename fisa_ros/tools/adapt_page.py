"""A page of pictures: images of a site as they are, as a model saw them before, and as it sees them adapted."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.pipeline.lettering import TextStyle, draw_text
from fisa_ros.pipeline.overlay import draw_overlay
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.sources.image_folder import read_image

_MAX_IMAGES = 4
_WIDTH = 480
_TITLE_HEIGHT, _GAP = 32, 6
_TITLE = TextStyle(16, 700)
_PAPER, _INK = (22, 24, 30), (245, 245, 245)


def write_page(path: Path, before: str, after: Path, vocabulary: Path, images: Sequence[Path]) -> None:
    """Write a PNG with one row for each of the first images.

    Args:
        path: The file.
        before: Name or manifest of the model as it was.
        after: Manifest of the adapted model.
        vocabulary: The words that both are asked for.
        images: Image files.
    """
    request = VocabularyRequest.parse(str(vocabulary))
    shown = [_scaled(read_image(image)) for image in images[:_MAX_IMAGES]]
    columns = [shown, *(_overlays(model, request, shown) for model in (before, str(after)))]
    titles = ('image', 'before', 'after')
    parts = [_column(title, pictures) for title, pictures in zip(titles, columns, strict=True)]
    page = np.concatenate(parts, 1)
    _, encoded = cv2.imencode('.png', page[..., ::-1])
    path.write_bytes(encoded.tobytes())


def _overlays(model: str, request: VocabularyRequest, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    segmenter = Segmenter.load(model, 'torch', 'cpu', cache=False)
    try:
        state = segmenter.prepare(VocabularyRegistry(max_id=65535).propose(request))
        return [draw_overlay(image, segmenter.segment(image, state)) for image in images]
    finally:
        segmenter.close()


def _scaled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = max(1, round(_WIDTH * image.shape[0] / image.shape[1]))
    return np.asarray(cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)


def _column(title: str, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    head = np.full((_TITLE_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
    draw_text(head, title, (8, _TITLE_HEIGHT - 10), _TITLE, _INK)
    rows = [head]
    for picture in pictures:
        rows += [picture, np.full((_GAP, _WIDTH, 3), _PAPER, np.uint8)]
    column = np.concatenate(rows)
    return np.concatenate([column, np.full((len(column), _GAP, 3), _PAPER, np.uint8)], 1)

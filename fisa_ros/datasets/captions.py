"""Reads captions in COCO's format, of images and of single objects in them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import ImageId, read_json


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence about an image or about one object in it.

    Attributes:
        text: The sentence.
        box_xyxy: Box (x0, y0, x1, y1) in pixels of the object; None where the sentence is about the whole image.
    """

    text: str
    box_xyxy: tuple[float, float, float, float] | None


def read_captions(path: Path) -> Mapping[ImageId, Sequence[Caption]]:
    """Return the captions of each image id.

    Raises:
        DataError: The file cannot be read or breaks the format.
    """
    document = read_json(path)
    captions: dict[ImageId, list[Caption]] = defaultdict(list)
    try:
        for entry in document['annotations']:
            box = None
            if 'bbox' in entry:
                x, y, width, height = entry['bbox']
                box = (x, y, x + width, y + height)
            captions[entry['image_id']].append(Caption(str(entry['caption']), box))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f'{path} is not in the COCO captions format: {type(error).__name__} {error}') from error
    return captions

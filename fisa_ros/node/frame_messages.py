"""Frames and answers as the messages of the segment node, without sending them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from fisa_ros.core.results import PanopticResult
from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions
from fisa_ros.pipeline.overlay import draw_overlay

OVERLAY = 'overlay'
OUTPUT_TYPES: dict[str, type] = {
    'mask': Image,
    'instances': Image,
    'confidence': Image,
    'segments': SegmentArray,
    'detections': Detection2DArray,
    OVERLAY: Image,
}
"""What answers each frame: the type of each topic below `segmentation/`."""


def output_makers(
    image: NDArray[np.uint8], result: PanopticResult, mask_encoding: str, header: Header
) -> dict[str, Callable[[], Any]]:
    """Return what makes each message of `OUTPUT_TYPES`.

    Args:
        image: `(H, W, 3)` uint8 rgb.
        result: What it shows.
        mask_encoding: Encoding of the mask, mono8 or mono16.
        header: That of the image.
    """
    return {
        'mask': lambda: conversions.mask_to_msg(result, mask_encoding, header),
        'instances': lambda: conversions.image_to_msg(result.panoptic_map, 'mono16', header),
        'confidence': lambda: conversions.image_to_msg(result.confidence_map, 'mono8', header),
        'segments': lambda: conversions.segments_to_msg(result, header),
        'detections': lambda: conversions.detections_to_msg(result, header),
        OVERLAY: lambda: conversions.image_to_msg(draw_overlay(image, result), 'rgb8', header),
    }


class ImageMessages:
    """See `evaluation.frame_timing.FrameMessages`; all that the node publishes for each frame but the overlay.

    Args:
        frames: Images `(H, W, 3)` uint8 rgb.
        mask_encoding: Encoding of the mask, mono8 or mono16.
    """

    def __init__(self, frames: Sequence[NDArray[np.uint8]], mask_encoding: str) -> None:
        self._frames = frames
        self._images = [conversions.image_to_msg(frame, 'rgb8', Header(frame_id='camera')) for frame in frames]
        self._mask_encoding = mask_encoding

    def decode(self, number: int) -> NDArray[np.uint8]:
        """See `FrameMessages.decode`."""
        return conversions.image_from_msg(self._images[number])

    def write(self, number: int, result: PanopticResult) -> None:
        """See `FrameMessages.write`."""
        header = self._images[number].header
        for name, make in output_makers(self._frames[number], result, self._mask_encoding, header).items():
            if name != OVERLAY:
                make()

"""Frames and answers as the messages of the segment node, without sending them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from fisa_ros.core.results import PanopticResult
from fisa_ros.node import conversions


class ImageMessages:
    """See `evaluation.frame_timing.FrameMessages`; all that the node publishes for each frame but the overlay.

    Args:
        frames: Images `(H, W, 3)` uint8 rgb.
        mask_encoding: Encoding of the mask, mono8 or mono16.
    """

    def __init__(self, frames: Sequence[NDArray[np.uint8]], mask_encoding: str) -> None:
        self._images = [conversions.image_to_msg(frame, 'rgb8', Header(frame_id='camera')) for frame in frames]
        self._mask_encoding = mask_encoding

    def decode(self, number: int) -> NDArray[np.uint8]:
        """See `FrameMessages.decode`."""
        return conversions.image_from_msg(self._images[number])

    def write(self, number: int, result: PanopticResult) -> None:
        """See `FrameMessages.write`."""
        header = self._images[number].header
        conversions.mask_to_msg(result, self._mask_encoding, header)
        conversions.image_to_msg(result.panoptic_map, 'mono16', header)
        conversions.image_to_msg(result.confidence_map, 'mono8', header)
        conversions.segments_to_msg(result, header)
        conversions.detections_to_msg(result, header)

"""What the segment node would publish for an image, as serialised messages and without a node."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from rclpy.serialization import serialize_message
from rosbags.typesys.store import Typestore
from std_msgs.msg import Header

from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.node import conversions
from fisa_ros.node.bag_topics import IMAGE_TYPE
from fisa_ros.node.raw_messages import read_message
from fisa_ros.pipeline.overlay import draw_overlay
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.sources.message_definitions import installed_types

# Name of each output: its type. In this order they are written for one image.
OUTPUT_TYPES = {
    'label_info': 'vision_msgs/msg/LabelInfo',
    'vision_info': 'vision_msgs/msg/VisionInfo',
    'mask': IMAGE_TYPE,
    'instances': IMAGE_TYPE,
    'confidence': IMAGE_TYPE,
    'segments': 'fisa_ros/msg/SegmentArray',
    'detections': 'vision_msgs/msg/Detection2DArray',
    'overlay': IMAGE_TYPE,
}
DEFAULT_OUTPUTS = tuple(name for name in OUTPUT_TYPES if name != 'overlay')
# Once per topic, ahead of the first image's.
LATCHED_OUTPUTS = ('label_info', 'vision_info')


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """All that decides what is found in an image, and what is written of it.

    Attributes:
        model: Name or path of a manifest.
        backend: As `create_backend` takes it.
        device: Likewise.
        precision: Likewise.
        vocabulary: The words.
        thresholds: What a segment must reach; None for what fits the model.
        outputs: Names from `OUTPUT_TYPES`.
        mask_encoding: Of the mask: mono8 or mono16.
    """

    model: str
    backend: str
    device: str
    precision: str
    vocabulary: Vocabulary
    thresholds: Thresholds | None = None
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    mask_encoding: str = 'mono8'


class Output(NamedTuple):
    """One serialised message.

    Attributes:
        name: From `OUTPUT_TYPES`.
        data: CDR.
    """

    name: str
    data: bytes


class OutputMaker:
    """A loaded model that answers serialised images with serialised messages."""

    def __init__(self, segmenter: Segmenter, options: ModelOptions) -> None:
        """Encode the vocabulary, and look up the types of the outputs.

        Args:
            segmenter: The model, which `close` closes.
            options: Of these, what names the model is not looked at.

        Raises:
            BagError: A type is not installed.
        """
        self._segmenter = segmenter
        self._options = options
        self._state: VocabularyState = segmenter.prepare(options.vocabulary)
        self._thresholds = options.thresholds or segmenter.default_thresholds
        self._types = output_types()

    @classmethod
    def load(cls, options: ModelOptions) -> Self:
        """Load the model.

        Raises:
            FisaError: It cannot be loaded; the text says why.
        """
        segmenter = Segmenter.load(options.model, options.backend, options.device, options.precision)
        return cls(segmenter, options)

    @property
    def method(self) -> str:
        """The model and what it runs on, as the node names it in VisionInfo."""
        return self._segmenter.method

    def answer(self, data: bytes, msg_type: str, prefix: str, is_first: bool) -> list[Output]:
        """Return the outputs of one image, with its header.

        Args:
            data: A serialised Image or CompressedImage.
            msg_type: Which of them.
            prefix: What the outputs' topics begin with.
            is_first: Tell also what the ids mean.

        Raises:
            BagError: The bytes are no such message.
            ImageError: The image cannot be decoded.
        """
        message = read_message(data, msg_type)
        image = conversions.image_from_msg(message)
        result = self._segmenter.segment(image, self._state, self._thresholds)
        header: Header = message.header
        start = Header(stamp=header.stamp)
        vocabulary = self._options.vocabulary
        makers: dict[str, Callable[[], Any]] = {
            'label_info': lambda: conversions.label_info_to_msg(vocabulary, self._thresholds.score, start),
            'vision_info': lambda: conversions.vision_info_to_msg(
                vocabulary, self.method, f'{prefix}label_info', start
            ),
            'mask': lambda: conversions.mask_to_msg(result, self._options.mask_encoding, header),
            'instances': lambda: conversions.image_to_msg(result.panoptic_map, 'mono16', header),
            'confidence': lambda: conversions.image_to_msg(result.confidence_map, 'mono8', header),
            'segments': lambda: conversions.segments_to_msg(result, header),
            'detections': lambda: conversions.detections_to_msg(result, header),
            'overlay': lambda: conversions.image_to_msg(draw_overlay(image, result), 'rgb8', header),
        }
        return [
            Output(name, self._serialize(make(), OUTPUT_TYPES[name]))
            for name, make in makers.items()
            if name in self._options.outputs and (is_first or name not in LATCHED_OUTPUTS)
        ]

    def _serialize(self, message: Any, msg_type: str) -> bytes:
        data = serialize_message(message)
        # The middleware leaves what lay in memory between the values, so the same message differs from run to run.
        return bytes(self._types.serialize_cdr(self._types.deserialize_cdr(data, msg_type), msg_type))

    def close(self) -> None:
        """Free the model."""
        self._segmenter.close()


def output_types() -> Typestore:
    """Return the definitions of all outputs' types.

    Raises:
        BagError: One is not installed.
    """
    return installed_types(list(OUTPUT_TYPES.values()))

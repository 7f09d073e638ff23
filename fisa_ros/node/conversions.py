"""Between ROS messages and the types of the core; pure functions."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
    VisionInfo,
)

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.core.vocabulary import Vocabulary, VocabularyRequest
from fisa_ros.msg import Segment as SegmentMsg
from fisa_ros.msg import SegmentArray
from fisa_ros.node.image_decoding import decode_compressed, decode_image
from fisa_ros.srv import GetVocabulary, SetVocabulary

_VALUE_TYPES = {'mono8': np.uint8, 'mono16': np.uint16, 'rgb8': np.uint8, '32FC1': np.float32, '16UC1': np.uint16}


def image_from_msg(msg: Image | CompressedImage) -> NDArray[np.uint8]:
    """Return the pixels as `(H, W, 3)` uint8 rgb, where possible a view of the message.

    Raises:
        ImageError: The encoding is not supported, or the message contradicts itself or is damaged.
    """
    if isinstance(msg, CompressedImage):
        return decode_compressed(msg.data, format_text=msg.format)
    return decode_image(
        msg.data,
        encoding=msg.encoding,
        size_wh=(msg.width, msg.height),
        step=msg.step,
        is_bigendian=bool(msg.is_bigendian),
    )


def image_to_msg(pixels: NDArray[np.uint8 | np.uint16 | np.float32], encoding: str, header: Header) -> Image:
    """Return an image message with tight rows.

    Args:
        pixels: `(H, W)` or `(H, W, 3)`, of the type the encoding stands for.
        encoding: One of mono8, mono16, rgb8, 16UC1, 32FC1.
        header: Taken as it is.
    """
    if pixels.dtype != _VALUE_TYPES[encoding]:
        raise ValueError(f'{encoding} takes {_VALUE_TYPES[encoding].__name__}, got {pixels.dtype}')
    msg = Image(header=header, encoding=encoding)
    msg.height, msg.width = pixels.shape[:2]
    msg.step = pixels.nbytes // msg.height
    # Assigning bytes, a list or an array to `data` copies once more, for some types value by value.
    msg.data.frombytes(memoryview(np.ascontiguousarray(pixels)).cast('B'))
    return msg


def image_to_jpeg_msg(pixels: NDArray[np.uint8], header: Header) -> CompressedImage:
    """Return an `(H, W, 3)` uint8 rgb image as jpeg, in the form of image_transport."""
    msg = CompressedImage(header=header, format='rgb8; jpeg compressed bgr8')
    encoded = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
    msg.data.frombytes(memoryview(encoded).cast('B'))
    return msg


def mask_to_msg(result: PanopticResult, encoding: str, header: Header) -> Image:
    """Return the class id of each pixel; `encoding` is mono8 (ids up to 255) or mono16."""
    return image_to_msg(result.semantic_map.astype(_VALUE_TYPES[encoding], copy=False), encoding, header)


def segments_to_msg(result: PanopticResult, header: Header) -> SegmentArray:
    """Return all segments of a frame with the version of the vocabulary that made them."""
    msg = SegmentArray(header=header, vocabulary_version=result.vocabulary_version)
    msg.segments = [_segment_to_msg(segment) for segment in result.segments]
    return msg


def segment_from_msg(msg: SegmentMsg) -> Segment:
    """Return a segment as `segments_to_msg` has written it."""
    x0, y0 = msg.roi.x_offset, msg.roi.y_offset
    return Segment(
        id=msg.id,
        class_id=msg.class_id,
        class_name=msg.class_name,
        is_thing=msg.is_thing,
        score=msg.score,
        area=msg.area,
        box_xyxy=(x0, y0, x0 + msg.roi.width, y0 + msg.roi.height),
    )


def detections_to_msg(result: PanopticResult, header: Header) -> Detection2DArray:
    """Return the things of a frame as boxes: the class is the name, the id is the segment's."""
    msg = Detection2DArray(header=header)
    msg.detections = [_detection_to_msg(segment, header) for segment in result.segments if segment.is_thing]
    return msg


def label_info_to_msg(vocabulary: Vocabulary, score_threshold: float, header: Header) -> LabelInfo:
    """Return the names of the ids in the mask; 0 (unlabelled) is not listed."""
    msg = LabelInfo(header=header, threshold=score_threshold)
    msg.class_map = [VisionClass(class_id=entry.id, class_name=entry.name) for entry in vocabulary.classes]
    return msg


def vision_info_to_msg(vocabulary: Vocabulary, method: str, label_topic: str, header: Header) -> VisionInfo:
    """Return what makes the labels and where their names are published; the version is the vocabulary's."""
    return VisionInfo(header=header, method=method, database_location=label_topic, database_version=vocabulary.version)


def request_from_srv(request: SetVocabulary.Request) -> VocabularyRequest:
    """Return the vocabulary asked for; an id of 0 leaves the choice to the registry."""
    return VocabularyRequest(
        classes=tuple(request.classes),
        stuff_classes=tuple(request.stuff_classes),
        class_ids=tuple(class_id or None for class_id in request.class_ids),
        thing_classes=tuple(request.thing_classes),
    )


def request_to_srv(request: VocabularyRequest) -> SetVocabulary.Request:
    """Return a request as `request_from_srv` reads it."""
    return SetVocabulary.Request(
        classes=list(request.classes),
        stuff_classes=list(request.stuff_classes),
        class_ids=[class_id or 0 for class_id in request.class_ids],
        thing_classes=list(request.thing_classes),
    )


def vocabulary_to_srv(vocabulary: Vocabulary | None, response: GetVocabulary.Response) -> GetVocabulary.Response:
    """Fill a response in the form that SetVocabulary takes, which makes exactly this vocabulary of it."""
    if vocabulary is None:
        return response
    response.version = vocabulary.version
    response.classes = [entry.text for entry in vocabulary.classes]
    response.stuff_classes = [entry.name for entry in vocabulary.classes if not entry.is_thing]
    response.thing_classes = [entry.name for entry in vocabulary.classes if entry.is_thing]
    response.class_ids = list(vocabulary.class_ids)
    return response


def names_to_text(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names and how many more there are, for logs and answers."""
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def _segment_to_msg(segment: Segment) -> SegmentMsg:
    x0, y0, x1, y1 = map(int, segment.box_xyxy)
    # The generated code takes Python's own numbers only; numpy's would end the process.
    msg = SegmentMsg(
        id=int(segment.id),
        class_id=int(segment.class_id),
        class_name=segment.class_name,
        is_thing=bool(segment.is_thing),
        score=float(segment.score),
        area=int(segment.area),
    )
    msg.roi.x_offset, msg.roi.y_offset, msg.roi.width, msg.roi.height = x0, y0, x1 - x0, y1 - y0
    return msg


def _detection_to_msg(segment: Segment, header: Header) -> Detection2D:
    x0, y0, x1, y1 = map(float, segment.box_xyxy)
    msg = Detection2D(header=header, id=str(segment.id))
    msg.bbox.center.position.x, msg.bbox.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
    msg.bbox.size_x, msg.bbox.size_y = x1 - x0, y1 - y0
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = segment.class_name
    hypothesis.hypothesis.score = float(segment.score)
    msg.results = [hypothesis]
    return msg

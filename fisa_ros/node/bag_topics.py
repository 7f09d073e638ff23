"""Which topics of a recording are camera images, and what their outputs are called."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from rosbags.interfaces import Connection

from fisa_ros.core.errors import BagError
from fisa_ros.node.raw_messages import read_message
from fisa_ros.sources.bag import Bag

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE)
OUTPUT_NAMESPACE = 'segmentation'

# Beginnings of the encodings that hold colours; depth, infrared and label images have others.
_COLOUR = ('rgb', 'bgr', 'bayer', 'yuv', 'yuyv', 'uyvy', 'nv', '8UC3', '8UC4', 'jpeg', 'jpg', 'png')
_MESSAGES_TO_TRY = 5


def image_connections(bag: Bag) -> list[Connection]:
    """Return the topics of images, those of depth and labels too."""
    return [connection for connection in bag.connections if connection.msgtype in IMAGE_TYPES]


def choose_topics(bag: Bag, wanted: Sequence[str] = ()) -> list[str]:
    """Return the image topics to segment.

    Args:
        bag: The recording.
        wanted: Topics that a user named; by default all that show colours, by their first messages. Of an image that
            was recorded both raw and compressed, the raw topic is taken.

    Raises:
        BagError: There is no such topic, or it holds no images.
    """
    found = {connection.topic: connection for connection in image_connections(bag)}
    images = ', '.join(sorted(found)) or 'none'
    if wanted:
        for topic in wanted:
            if topic not in found:
                raise BagError(f'{bag.path} has no topic {topic} of images; topics of images are: {images}')
        return list(dict.fromkeys(wanted))
    colour = {topic for topic, connection in found.items() if _shows_colour(bag, connection)}
    chosen = sorted(topic for topic in colour if not (topic != _image_name(topic) and _image_name(topic) in colour))
    if not chosen:
        raise BagError(f'{bag.path} has no topic of colour images; name one if you mean it. Topics of images: {images}')
    return chosen


def output_prefixes(topics: Iterable[str]) -> dict[str, str]:
    """Return what the names of each topic's outputs begin with, as of the node that serves this camera.

    That is the camera's namespace: `/front/image` and `/front/image_raw/compressed` give `/front/segmentation/`.
    Topics that share a namespace keep their own names: `/front/left/segmentation/`, `/front/right/segmentation/`.

    Raises:
        BagError: The outputs of two topics would have one name.
    """
    topics = list(topics)
    namespaces = {topic: _image_name(topic).rpartition('/')[0] for topic in topics}
    users = Counter(namespaces.values())
    prefixes = {
        topic: f'{namespace if users[namespace] == 1 else topic}/{OUTPUT_NAMESPACE}/'
        for topic, namespace in namespaces.items()
    }
    by_prefix: dict[str, str] = {}
    for topic, prefix in prefixes.items():
        if (other := by_prefix.setdefault(prefix, topic)) != topic:
            raise BagError(f'the outputs of {other} and {topic} would both be {prefix}*: name one of them (--topics)')
    return prefixes


def _image_name(topic: str) -> str:
    """Return the name of the image that a topic of `image_transport` carries."""
    return topic.removesuffix('/compressed')


def _shows_colour(bag: Bag, connection: Connection) -> bool:
    if not connection.msgcount or f'/{OUTPUT_NAMESPACE}/' in connection.topic:
        return False
    for message in islice(bag.messages([connection]), _MESSAGES_TO_TRY):
        try:
            content: Any = read_message(message.data, connection.msgtype)
        except BagError:
            continue
        encoding = content.encoding if connection.msgtype == IMAGE_TYPE else content.format
        return encoding.startswith(_COLOUR) and 'compressedDepth' not in encoding
    # A topic whose messages are all damaged is reported image by image, not passed over in silence.
    return True

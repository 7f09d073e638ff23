from collections.abc import Callable, Iterator, Sequence
import hashlib
from pathlib import Path
from typing import Any

import cv2
from hypothesis import settings
import numpy as np
from numpy.typing import NDArray
import pytest
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from fisa_ros.core.manifest import ModelManifest, WeightsFile
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import Vocabulary, VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import VocabularyState, unit_rows
from fisa_ros.runtime.backend import RawSegmentation

# A loaded machine is slow now and then; that is no error.
settings.register_profile('fisa', deadline=None)
settings.load_profile('fisa')

_COLOR_WORDS = {
    'black': (0, 0, 0),
    'blue': (0, 0, 255),
    'green': (0, 255, 0),
    'red': (255, 0, 0),
    'white': (255, 255, 255),
    'yellow': (255, 255, 0),
}


@pytest.fixture(autouse=True, scope='session')
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder for models, so that no test depends on what was downloaded."""
    folder = tmp_path_factory.mktemp('models')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FISA_ROS_MODELS', str(folder))
        yield folder


class ColorBackend:
    """Finds regions of flat colour by the names of colours; a thing is one connected region."""

    name = 'color'
    device = 'cpu'
    image_size_hw = (48, 64)
    embedding_dim = 3
    precision = 'fp32'
    num_semantic_tokens = 4
    max_classes = None

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.is_closed = False

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        self.sentences += sentences
        return np.stack([self._encode(sentence) for sentence in sentences])

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        assert image.shape == (*self.image_size_hw, 3)
        assert image.dtype == np.uint8
        pixels = unit_rows(image.astype(np.float32) - 127.5)
        similarity = np.einsum('hwd,ksd->hwks', pixels, state.text_embeddings)
        similarity = np.where(state.synonym_mask, similarity, -1.0).max(axis=-1)
        nearest, closeness = similarity.argmax(axis=-1), similarity.max(axis=-1)
        query_map = np.zeros(self.image_size_hw, np.int32)
        rows: list[int] = []
        scores: list[float] = []
        for row, is_thing in enumerate(state.is_thing):
            region = (nearest == row) & (closeness >= thresholds.score)
            num_parts, parts = cv2.connectedComponents(region.astype(np.uint8))
            if not is_thing:
                num_parts, parts = 2, region.astype(np.int32)
            for part in range(1, num_parts):
                if (parts == part).any():
                    rows.append(row)
                    scores.append(float(closeness[parts == part].mean()))
                    query_map[parts == part] = len(rows)
        return RawSegmentation(query_map, np.array(rows, np.int64), np.array(scores, np.float32))

    def close(self) -> None:
        self.is_closed = True

    @staticmethod
    def _encode(sentence: str) -> NDArray[np.float32]:
        for word, color in _COLOR_WORDS.items():
            if word in sentence.lower():
                return unit_rows(np.array(color, np.float32) - 127.5)
        digest = hashlib.sha256(sentence.encode()).digest()
        return unit_rows(np.frombuffer(digest[:3], np.uint8).astype(np.float32) - 127.5)


@pytest.fixture
def color_backend() -> ColorBackend:
    return ColorBackend()


@pytest.fixture
def color_manifest(tmp_path: Path) -> ModelManifest:
    return ModelManifest(
        name='color',
        description='Names of colours.',
        licence='Apache-2.0',
        image_size_hw=ColorBackend.image_size_hw,
        weights=WeightsFile(tmp_path / 'color.safetensors', '0' * 64),
        generator={'type': 'color'},
        classifier={'type': 'color'},
        text_encoder={'type': 'color'},
        prompt_templates=('a photo of {}.', '{} in a room.'),
        thresholds=Thresholds(score=0.9, mask=0.5, overlap=0.8),
    )


@pytest.fixture
def flags() -> NDArray[np.uint8]:
    """Image of 120x160: green ground, two red squares, one blue one."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[:] = (0, 255, 0)
    image[20:40, 20:60] = (255, 0, 0)
    image[80:100, 20:40] = (255, 0, 0)
    image[40:100, 100:140] = (0, 0, 255)
    return image


@pytest.fixture
def color_vocabulary() -> Vocabulary:
    request = VocabularyRequest(('red flag', 'blue flag, navy', 'green, lawn'), stuff_classes=('green',))
    return VocabularyRegistry(stuff_words=()).propose(request)


BAG_START_NS = 1_700_000_000_000_000_000
BAG_PERIOD_NS = 100_000_000


@pytest.fixture
def write_bag(tmp_path: Path, flags: NDArray[np.uint8]) -> Callable[..., Path]:
    """Writes a robot's recording: two cameras, depth, transforms, and a type that nothing here knows.

    Image n of `/front/image_raw` was recorded at BAG_START_NS + n * BAG_PERIOD_NS and is stamped 5 ms earlier; the one
    of the compressed `/rear/image` follows 10 ms later.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg('std_msgs/Header header\nuint16 gear\n', 'robot_msgs/msg/State'))
    kinds: dict[str, Any] = {name.rpartition('/')[2]: kind for name, kind in store.types.items()}
    qos = [qos_of('RELIABLE', 'VOLATILE')]

    def header(time_ns: int, frame_id: str) -> Any:
        sec, nanosec = divmod(time_ns - 5_000_000, 1_000_000_000)
        return kinds['Header'](kinds['Time'](sec, nanosec), frame_id)

    def image(time_ns: int, frame_id: str, pixels: NDArray[Any], encoding: str) -> Any:
        height, width = pixels.shape[:2]
        data = np.frombuffer(pixels.tobytes(), np.uint8)
        return kinds['Image'](header(time_ns, frame_id), height, width, encoding, 0, len(data) // height, data)

    def write(
        name: str = 'bag',
        storage: str = 'mcap',
        images: int = 6,
        damaged: Sequence[int] = (),
        broken: Sequence[int] = (),
    ) -> Path:
        """Of the images of the front, those `damaged` are cut off, those `broken` have an encoding that nobody has."""
        path = tmp_path / name
        with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
            topics = {
                topic: writer.add_connection(topic, msg_type, typestore=store, offered_qos_profiles=offered)
                for topic, msg_type, offered in (
                    ('/front/image_raw', 'sensor_msgs/msg/Image', qos),
                    ('/front/camera_info', 'sensor_msgs/msg/CameraInfo', qos),
                    ('/front/depth', 'sensor_msgs/msg/Image', [qos_of('BEST_EFFORT', 'VOLATILE')]),
                    ('/rear/image/compressed', 'sensor_msgs/msg/CompressedImage', qos),
                    ('/robot/state', 'robot_msgs/msg/State', ()),
                    ('/tf', 'tf2_msgs/msg/TFMessage', qos),
                    ('/tf_static', 'tf2_msgs/msg/TFMessage', [qos_of('RELIABLE', 'TRANSIENT_LOCAL')]),
                )
            }

            def record(topic: str, time_ns: int, message: Any, cut: int | None = None) -> None:
                data = bytes(store.serialize_cdr(message, topics[topic].msgtype))
                writer.write(topics[topic], time_ns, data[:cut])

            zero, one = kinds['Vector3'](0.0, 0.0, 0.0), kinds['Quaternion'](0.0, 0.0, 0.0, 1.0)
            tf = [kinds['TransformStamped'](header(BAG_START_NS, 'map'), 'base', kinds['Transform'](zero, one))]
            record('/tf_static', BAG_START_NS, kinds['TFMessage'](tf))
            for number in range(images):
                time_ns = BAG_START_NS + number * BAG_PERIOD_NS
                pixels = np.roll(flags, 4 * number, axis=1)
                encoding = 'rgb9' if number in broken else 'rgb8'
                cut = 60 if number in damaged else None
                record('/front/image_raw', time_ns, image(time_ns, 'front', pixels, encoding), cut)
                info = kinds['CameraInfo'](
                    header(time_ns, 'front'), 120, 160, 'plumb_bob', np.zeros(5), np.eye(3).ravel(), np.eye(3).ravel(),
                    np.eye(3, 4).ravel(), 0, 0, kinds['RegionOfInterest'](0, 0, 0, 0, False),
                )  # fmt: skip
                record('/front/camera_info', time_ns, info)
                depth = np.full((120, 160), 1000 + number, np.uint16)
                record('/front/depth', time_ns, image(time_ns, 'front', depth, '16UC1'))
                jpeg = cv2.imencode('.jpg', pixels[..., ::-1])[1].ravel()
                rear = kinds['CompressedImage'](
                    header(time_ns + 10_000_000, 'rear'), 'rgb8; jpeg compressed bgr8', jpeg
                )
                record('/rear/image/compressed', time_ns + 10_000_000, rear)
                tf[0].header = header(time_ns, 'map')
                record('/tf', time_ns + 20_000_000, kinds['TFMessage'](tf))
                record('/robot/state', time_ns + 30_000_000, kinds['State'](header(time_ns, ''), number))
        return path

    return write


def qos_of(reliability: str, durability: str) -> Qos:
    forever = QosTime(9_223_372_036, 854_775_807)
    return Qos(
        QosHistory.KEEP_LAST, 7, QosReliability[reliability], QosDurability[durability], forever, forever,
        QosLiveliness.AUTOMATIC, forever, False,
    )  # fmt: skip

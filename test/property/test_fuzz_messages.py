"""Messages that nobody would send, by the ten thousands: each is used or refused with a reason, never anything else."""

from collections.abc import Callable
import itertools

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from fisa_ros.core.errors import CalibrationError, FisaError, ImageError, VocabularyError
from fisa_ros.core.vocabulary import MONO8_MAX_ID, MONO16_MAX_ID, VocabularyRegistry, VocabularyRequest
from fisa_ros.node import conversions
from fisa_ros.node.depth_messages import camera_model_from_msg, depth_from_msg
from fisa_ros.node.image_decoding import ENCODINGS
from fisa_ros.srv import SetVocabulary

QUICK, FULL = 5_000, 100_000
SHARES = {'images': 0.4, 'compressed': 0.25, 'words': 0.2, 'depth': 0.06, 'calibrations': 0.04, 'files': 0.05}
MAX_IDS = (MONO8_MAX_ID, MONO16_MAX_ID, 3)
LENGTHS = [0, 1, 2, 3, 5, 7, 8, 16, 33, 2**16, 2**31, 2**32 - 1]
Rng = np.random.Generator


def counts(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        'count', [round(QUICK * SHARES[kind]), pytest.param(round(FULL * SHARES[kind]), marks=pytest.mark.slow)]
    )


def refusals(error: type[FisaError], count: int, use: Callable[[int], object]) -> list[str]:
    """Return the reasons for those that were refused; anything but this error is one of the test."""
    reasons = []
    for number in range(count):
        try:
            use(number)
        except error as reason:
            reasons.append(str(reason))
    assert all(reasons)
    assert max(map(len, reasons)) < 3_000
    return reasons


def any_image(rng: Rng) -> Image:
    encoding = str(rng.choice([*ENCODINGS, '32FC1', '16UC1', '64FC4', '', 'rgb', 'RGB8', 'nv12']))
    layout = ENCODINGS.get(encoding)
    width, height = (int(rng.integers(0, 40)) for _ in range(2))
    step = width * (layout.bytes_per_pixel if layout else 4) + int(rng.choice([0, 0, 0, 1, 7]))
    size = height * step
    fault = rng.integers(0, 8)
    if fault == 0:
        width = int(rng.choice(LENGTHS))
    elif fault == 1:
        height = int(rng.choice(LENGTHS))
    elif fault == 2:
        step = int(rng.choice(LENGTHS))
    elif fault == 3:
        size = max(0, size + int(rng.integers(-9, 9)))
    msg = Image(encoding=encoding, width=width, height=height, step=step, is_bigendian=int(rng.integers(0, 256)))
    msg.data.frombytes(rng.bytes(size))
    return msg


def check_pixels(pixels: np.ndarray) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous


@counts('images')
def test_images(count) -> None:
    rng = np.random.default_rng(1)

    def use(_: int) -> None:
        msg = any_image(rng)
        pixels = conversions.image_from_msg(msg)
        check_pixels(pixels)
        assert pixels.shape[:2] == (msg.height, msg.width)

    assert 0.1 * count < len(refusals(ImageError, count, use)) < 0.9 * count


@counts('depth')
def test_depth(count) -> None:
    rng = np.random.default_rng(5)

    def use(_: int) -> None:
        msg = any_image(rng)
        msg.encoding = str(rng.choice(['32FC1', '16UC1', 'mono16', '64FC1', '']))
        value_bytes = 2 if msg.encoding in ('16UC1', 'mono16') else 4
        if rng.random() < 0.7:
            msg.step = msg.width * value_bytes
            size = msg.step * msg.height if msg.width < 100 and msg.height < 100 else 100
            msg.data = rng.bytes(size)
        depth = depth_from_msg(msg)
        assert depth.dtype == np.float32
        assert depth.shape == (msg.height, msg.width)

    assert 0.1 * count < len(refusals(ImageError, count, use)) < 0.95 * count


def any_number(rng: Rng) -> float:
    odd = [0.0, -1.0, 1e-300, 1e30, 1e300, float('nan'), float('inf'), float('-inf')]
    return float(rng.choice(odd)) if rng.random() < 0.1 else float(rng.normal(0.0, 1.0))


@counts('calibrations')
def test_calibrations(count) -> None:
    rng = np.random.default_rng(6)
    models = ['plumb_bob', 'rational_polynomial', 'equidistant', '', 'magic']

    def use(_: int) -> None:
        width, height = (int(rng.choice(LENGTHS)) if rng.random() < 0.1 else int(rng.integers(1, 40)) for _ in 'wh')
        msg = CameraInfo(width=width, height=height, distortion_model=str(rng.choice(models)))
        msg.k = [50.0 * abs(any_number(rng)) if place in (0, 4) else 20.0 * any_number(rng) for place in range(9)]
        msg.p = [any_number(rng) * 50.0 for _ in range(12)]
        msg.d = [any_number(rng) for _ in range(rng.choice([0, 4, 5, 8, 3, 50]))]
        if rng.random() < 0.2:
            msg.binning_x, msg.binning_y = (int(rng.choice(LENGTHS)) for _ in 'xy')
        if rng.random() < 0.2:
            msg.roi.width, msg.roi.height, msg.roi.x_offset = (int(rng.choice(LENGTHS)) for _ in 'whx')
        camera = camera_model_from_msg(msg, is_rectified=bool(rng.random() < 0.3))
        width, height = camera.size_wh
        assert min(width, height) >= 1
        if width * height < 10_000:
            assert [rays.shape for rays in camera.rays] == [(height, width)] * 2

    assert 0.1 * count < len(refusals(CalibrationError, count, use)) < 0.99 * count


def true_files(rng: Rng) -> list[bytes]:
    files = []
    for (height, width), channels in itertools.product([(1, 1), (17, 23), (48, 64)], [1, 3, 4]):
        pixels = cv2.resize(rng.integers(0, 255, (4, 4, channels), np.uint8), (width, height))
        files.append(cv2.imencode('.png', pixels)[1].tobytes())
        if channels != 4:
            for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_QUALITY, 20]):
                files.append(cv2.imencode('.jpg', pixels, options)[1].tobytes())
        files.append(cv2.imencode('.png', pixels.astype(np.uint16) * 257)[1].tobytes())
    return files


def corrupt(rng: Rng, files: list[bytes]) -> bytes:
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(0, 4)):
        place, other = int(rng.integers(0, len(data) + 1)), files[rng.integers(len(files))]
        match rng.integers(0, 7):
            case 0:
                del data[place:]
            case 1:
                del data[place : place + int(rng.integers(1, 50))]
            case 2:
                cut = int(rng.integers(0, len(other)))
                data[place:] = other[cut:]
            case 3:
                data[place:place] = rng.bytes(int(rng.integers(1, 30)))
            case 4:
                data += bytes(int(rng.integers(1, 30)))
            case _:
                for bit in rng.integers(0, max(1, 8 * min(len(data), 200)), rng.integers(1, 9)):
                    if bit // 8 < len(data):
                        data[bit // 8] ^= 1 << (bit % 8)
    return bytes(data)


@counts('compressed')
def test_compressed_images(count) -> None:
    rng = np.random.default_rng(2)
    files = true_files(rng)
    formats = ['jpeg', 'png', '', 'rgb8; jpeg compressed bgr8', '16UC1; compressedDepth png', 'x' * 1000]

    def use(_: int) -> None:
        msg = CompressedImage(format=str(rng.choice(formats)))
        msg.data.frombytes(corrupt(rng, files))
        check_pixels(conversions.image_from_msg(msg))

    assert 0.1 * count < len(refusals(ImageError, count, use)) < 0.9 * count


def any_name(rng: Rng) -> str:
    match rng.integers(0, 6):
        case 0:
            points = rng.integers(0, 0x110000, rng.integers(0, 12))
        case 1:
            points = rng.integers(0, 0x300, rng.integers(0, 120))
        case 2:
            special = [
                0x0,
                0xA,
                0xD,
                0x20,
                0x85,
                0xA0,
                0x130,
                0x200B,
                0x200D,
                0x202E,
                0x2028,
                0x3000,
                0xD800,
                0xFEFF,
                0xFFFF,
            ]
            points = rng.choice(special, rng.integers(0, 5))
        case 3:
            points = rng.integers(0x1F300, 0x1FAFF, rng.integers(1, 4))
        case _:
            return str(
                rng.choice(
                    ['chair', 'Chair', 'sofa', 'couch', 'grass', 'wall', 'stra\u00dfe', 'STRASSE', 'e\u0301', '\u00e9']
                )
            )
    return ''.join(map(chr, points))


def any_request(rng: Rng) -> SetVocabulary.Request:
    size = int(rng.choice([0, 1, 1, 2, 3, 4, 300])) if rng.random() < 0.3 else int(rng.integers(1, 5))
    classes = [', '.join(any_name(rng) for _ in range(rng.choice([1, 1, 1, 2, 12]))) for _ in range(size)]
    request = SetVocabulary.Request(classes=classes)
    if rng.random() < 0.3:
        request.class_ids = rng.integers(
            0, 2 ** int(rng.integers(3, 17)), max(0, size + rng.choice([0, 0, 0, 1, -1]))
        ).tolist()
    if rng.random() < 0.3:
        request.stuff_classes = [any_name(rng) if rng.random() < 0.5 else text for text in classes[:2]]
    if rng.random() < 0.1:
        request.thing_classes = [any_name(rng) if rng.random() < 0.2 else text for text in classes[-2:]]
    return request


@counts('words')
def test_words(count) -> None:
    rng = np.random.default_rng(3)
    registries = [
        VocabularyRegistry(max_id, quarantine_s=quarantine_s, clock=itertools.count().__next__)
        for max_id, quarantine_s in zip(MAX_IDS, (60.0, 0.0, 10.0), strict=True)
    ]
    ids: list[dict[str, int]] = [{}, {}, {}]

    def use(number: int) -> None:
        registry = registries[number % 3]
        before = registry.current
        request = any_request(rng)
        try:
            vocabulary = registry.propose(conversions.request_from_srv(request))
        except VocabularyError:
            assert registry.current is before
            raise
        registry.commit(vocabulary)
        assert len(set(vocabulary.class_ids)) == len(vocabulary.class_ids) == len(request.classes)
        assert set(vocabulary.class_ids) <= set(range(1, MAX_IDS[number % 3] + 1))
        assert vocabulary.version == (before.version if before else 0) + (
            not before or not vocabulary.labels_as(before)
        )
        # It can be sent back, and asking for what is in use changes nothing.
        response = conversions.vocabulary_to_srv(vocabulary, conversions.GetVocabulary.Response())
        fields = ('classes', 'stuff_classes', 'class_ids', 'thing_classes')
        again = SetVocabulary.Request(**{name: getattr(response, name) for name in fields})
        assert registry.propose(conversions.request_from_srv(again)).labels_as(vocabulary)
        ids[number % 3].update({entry.name: entry.id for entry in vocabulary.classes})

    assert 0.1 * count < len(refusals(VocabularyError, count, use)) < 0.95 * count
    assert all(ids)


FILES = [
    'classes: [chair, "sofa, couch", {name: grass, stuff: true}]\n',
    'classes:\n  - name: chair\n    id: 7\n  - lawn\n',
    '[a, b]\n',
]


@counts('files')
def test_vocabulary_files_and_texts(count, tmp_path) -> None:
    rng = np.random.default_rng(4)
    path = tmp_path / 'words.yaml'

    def use(_: int) -> None:
        data = bytearray(str(rng.choice(FILES)).encode())
        for _ in range(rng.integers(0, 4)):
            place = int(rng.integers(0, len(data)))
            data[place : place + int(rng.integers(0, 3))] = rng.choice(
                [
                    b'\x00',
                    b'\xff',
                    b'&a *a',
                    b'!!python/object:os.system x',
                    b'{',
                    b': ',
                    b'\t',
                    b'- ',
                    b'1e999',
                    b'null',
                    b'.nan',
                ]
            )
        path.write_bytes(data)
        request = VocabularyRequest.parse(str(path) if rng.random() < 0.7 else any_name(rng))
        VocabularyRegistry().propose(request)

    assert len(refusals(VocabularyError, count, use)) > 0.1 * count

"""Images that no camera should send, between good ones: each is refused, and no good one suffers."""

from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fisa_ros.node.image_decoding import ENCODINGS

QUICK, FULL = 3, 50
EITHER = pytest.mark.parametrize('repetitions', [QUICK, pytest.param(FULL, marks=pytest.mark.slow)])
HEADER = Header(stamp=Time(sec=7), frame_id='bad')


def raw(size: int = 9216, **fields: Any) -> Callable[[int], Image]:
    def make(_: int) -> Image:
        values = dict(encoding='rgb8', width=64, height=48, step=192) | fields
        msg = Image(header=HEADER, **values)
        msg.data.frombytes(bytes(size))
        return msg

    return make


BAD = {
    'data cut': raw(size=9215),
    'data too long': raw(size=9221),
    'no data': raw(size=0),
    'no pixels': raw(size=0, width=0, height=0, step=0),
    'no rows': raw(size=0, height=0),
    'step below a row': raw(size=48 * 64, step=64),
    'step without data': raw(step=200),
    'step 0': raw(step=0),
    'size of an attacker': raw(width=2**32 - 1, height=2**32 - 1),
    'size that overflows': raw(width=2**31, height=2, step=2**32 - 1),
    'odd width of yuv': raw(size=48 * 126, encoding='yuv422', width=63, step=126),
    'encoding of depth': raw(encoding='32FC1', step=256, size=48 * 256),
    'no encoding': raw(encoding=''),
    'unknown encoding': raw(encoding='rgb9'),
    'encoding with odd characters': raw(encoding='r\u00e9b8\n\x1b[31m'),
    'encoding of a megabyte': raw(encoding='x' * 1_000_000),
}


def jpeg(extension: str = '.jpg') -> bytes:
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def flipped(number: int) -> bytes:
    rng, data = np.random.default_rng(number), bytearray(jpeg())
    # In the head, so that it is noticed; a bit in the pixels only changes colours.
    for place in rng.integers(0, 20, 8):
        data[place] ^= 1 << rng.integers(0, 8)
    return bytes(data)


def huge_png(_: int) -> bytes:
    data = bytearray(jpeg('.png'))
    data[16:24] = (60_000).to_bytes(4, 'big') * 2
    return bytes(data)


BAD_COMPRESSED = {
    'no image': lambda _: b'not an image',
    'no bytes': lambda _: b'',
    'cut anywhere': lambda number: jpeg()[: 5 + 29 * number % (len(jpeg()) - 10)],
    'png cut': lambda number: jpeg('.png')[: 5 + 29 * number % 1000],
    'head flipped': flipped,
    'png of 60000x60000': huge_png,
    'zeros': lambda _: bytes(5000),
    'gif': lambda _: b'GIF89a' + bytes(100),
}


@EITHER
def test_malformed_raw_images(client, stream_of, repetitions) -> None:
    stream = stream_of()
    injected = 0
    for make in BAD.values():
        for number in range(repetitions):
            client.images.publish(make(number))
            injected += 1
            client.spin_for(0.02)
    stream.serve()
    counts = stream.counts()
    assert 0 < counts['refused'] <= injected
    assert not [msg for msg in stream.masks if msg.header.frame_id == 'bad']
    # Between two good images each has had its turn unless the machine was very slow.
    assert counts['refused'] + counts['dropped'] >= injected
    assert counts['received'] - counts['answered'] - counts['dropped'] - counts['refused'] in (0, 1)


@EITHER
def test_malformed_compressed_images(client, start_node, colours, stripes, repetitions) -> None:
    node = start_node(vocabulary=colours, image_transport='compressed')
    camera = client.node.create_publisher(CompressedImage, 'image/compressed', 5)
    masks = client.listen('segmentation/mask', Image)
    client.spin_until(camera.get_subscription_count)
    good = cv2.imencode('.png', cv2.cvtColor(stripes(), cv2.COLOR_RGB2BGR))[1].tobytes()
    sent = []

    def is_answered() -> bool:
        header = client.next_header('good')
        sent.append((header.stamp.sec, header.stamp.nanosec))
        camera.publish(CompressedImage(header=header, format='png', data=good))
        client.spin_for(0.03)
        return bool(masks) and (masks[-1].header.stamp.sec, masks[-1].header.stamp.nanosec) in sent[-20:]

    client.spin_until(is_answered)
    for make in BAD_COMPRESSED.values():
        for number in range(repetitions):
            camera.publish(CompressedImage(header=HEADER, format='jpeg', data=make(number)))
            client.spin_for(0.02)
            count = len(masks)
            client.spin_until(lambda count=count: is_answered() and len(masks) > count)
    for mask in masks:
        # Some flips leave a picture that can be read.
        if mask.header.frame_id == 'good':
            assert (mask.header.stamp.sec, mask.header.stamp.nanosec) in sent
            assert set(mask.data) == {1, 2, 3}
    assert 'Traceback' not in node.log


@EITHER
def test_sizes_and_encodings_that_change_with_each_image(client, stream_of, repetitions) -> None:
    stream = stream_of()
    rng = np.random.default_rng(5)
    sizes = {}
    for number in range(len(ENCODINGS) * repetitions):
        encoding, layout = list(ENCODINGS.items())[number % len(ENCODINGS)]
        height, width = 2 * int(rng.integers(1, 120)), 2 * int(rng.integers(1, 160))
        step = width * layout.bytes_per_pixel + int(rng.integers(0, 9))
        msg = Image(header=client.next_header('changing'), encoding=encoding, width=width, height=height, step=step)
        msg.is_bigendian = number % 2
        msg.data.frombytes(bytes(height * step))
        sizes[msg.header.stamp.sec, msg.header.stamp.nanosec] = (height, width)
        client.images.publish(msg)
        client.spin_for(0.02)
    stream.serve()
    answered = [msg for msg in stream.masks if msg.header.frame_id == 'changing']
    assert len(answered) > len(sizes) / 10
    for msg in answered:
        assert sizes[msg.header.stamp.sec, msg.header.stamp.nanosec] == (msg.height, msg.width)
    assert stream.counts()['refused'] == 0


@EITHER
def test_headers_that_no_clock_makes(client, stream_of, stripes, repetitions) -> None:
    stream = stream_of()
    from fisa_ros.node import conversions

    stamps = [Time(), Time(sec=-(2**31)), Time(sec=2**31 - 1, nanosec=2**32 - 1), Time(nanosec=2_000_000_000)]
    frames = ['', 'x' * 10_000, '/\u00fc\n', ' ']
    for number in range(len(stamps) * len(frames) * repetitions):
        stamp, frame_id = stamps[number % len(stamps)], f'odd{frames[number // len(stamps) % len(frames)]}'
        header = Header(stamp=stamp, frame_id=frame_id)
        client.images.publish(conversions.image_to_msg(stripes(), 'rgb8', header))
        client.spin_for(0.02)
    stream.serve()
    odd = [msg for msg in stream.masks if msg.header.frame_id.startswith('odd')]
    assert {(msg.header.stamp.sec, msg.header.stamp.nanosec) for msg in odd} == {(s.sec, s.nanosec) for s in stamps}
    assert {msg.header.frame_id for msg in odd} == {f'odd{frame}' for frame in frames}
    assert stream.counts()['refused'] == 0

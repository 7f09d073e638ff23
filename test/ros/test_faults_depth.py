"""Depth that is missing, malformed or without its calibration, beside good images."""

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from fisa_ros.node import conversions

QUICK, FULL = 3, 50
EITHER = pytest.mark.parametrize('repetitions', [QUICK, pytest.param(FULL, marks=pytest.mark.slow)])
HW = (48, 64)
GOOD_K = [60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]


@pytest.fixture
def camera(client, stream_of, stripes):
    return lambda: DepthCamera(client, stream_of(depth='true'), stripes())


class DepthCamera:
    """Depth and calibration for images that are sent beside the good ones."""

    def __init__(self, client, stream, image) -> None:
        self.stream = stream
        self.points = client.listen('segmentation/points', PointCloud2)
        self._client = client
        self._image = image
        self._depth = client.node.create_publisher(Image, 'depth', 5)
        self._info = client.node.create_publisher(CameraInfo, 'camera_info', 5)
        client.spin_until(lambda: self._depth.get_subscription_count() and self._info.get_subscription_count())

    def publish(self, depth: Image | None = None, info: CameraInfo | None = None) -> Header:
        """Publish an image with its depth and calibration, as far as they are given."""
        header = self._client.next_header('deep')
        for publisher, msg in ((self._info, info), (self._depth, depth)):
            if msg is not None:
                msg.header = header
                publisher.publish(msg)
        self._client.images.publish(conversions.image_to_msg(self._image, 'rgb8', header))
        self._client.spin_for(0.03)
        return header

    def expect_points(self) -> None:
        """Return when points come for images that are all right."""
        self.points.clear()
        self._client.spin_until(
            lambda: (
                self.publish(good_depth(), good_info()) and any(msg.header.frame_id == 'deep' for msg in self.points)
            )
        )


def good_depth() -> Image:
    return conversions.image_to_msg(np.full(HW, 2.0, np.float32), '32FC1', Header())


def good_info(**fields) -> CameraInfo:
    values = dict(width=HW[1], height=HW[0], k=GOOD_K, d=[0.0] * 5, distortion_model='plumb_bob') | fields
    return CameraInfo(**values)


def raw_depth(size: int = 48 * 256, **fields) -> Image:
    values = dict(encoding='32FC1', width=64, height=48, step=256) | fields
    msg = Image(**values)
    msg.data.frombytes(bytes(size))
    return msg


BAD_DEPTH = {
    'cut': dict(size=100),
    'empty': dict(size=0),
    'no pixels': dict(size=0, width=0, height=0, step=0),
    'short step': dict(step=64, size=48 * 64),
    'colours': dict(encoding='rgb8', step=192, size=48 * 192),
    'no encoding': dict(encoding=''),
    'huge': dict(width=2**32 - 1, height=2**32 - 1),
    'another size': dict(width=32, height=24, step=128, size=24 * 128),
}
BAD_INFO = {
    'no focal length': dict(k=[0.0] * 9),
    'not a number': dict(k=[float('nan')] * 9),
    'infinite': dict(k=[float('inf'), *GOOD_K[1:]]),
    'negative': dict(k=[-60.0, *GOOD_K[1:]]),
    'another size': dict(width=640, height=480),
    'no size': dict(width=0, height=0),
    'unknown distortion': dict(distortion_model='magic', d=[1.0] * 3),
    'wild distortion': dict(d=[1e30, -1e30, 1e30, float('nan'), 5.0]),
    'too few coefficients': dict(d=[0.1]),
}


@EITHER
def test_depth_without_camera_info(client, camera, repetitions) -> None:
    deep = camera()
    for _ in range(repetitions):
        deep.publish(good_depth())
    deep.stream.serve()
    assert deep.points == []
    client.spin_until(
        lambda: deep.publish(good_depth()) and 'no camera_info has come on /camera_info' in deep.stream.node.log
    )
    deep.expect_points()


@EITHER
def test_malformed_depth(camera, repetitions) -> None:
    deep = camera()
    deep.expect_points()
    for fields in BAD_DEPTH.values():
        for _ in range(repetitions):
            deep.publish(raw_depth(**fields), good_info())
    deep.stream.serve()
    deep.expect_points()


@EITHER
def test_malformed_calibration(camera, repetitions) -> None:
    deep = camera()
    deep.expect_points()
    for fields in BAD_INFO.values():
        for _ in range(repetitions):
            deep.publish(good_depth(), good_info(**fields))
    deep.stream.serve()
    deep.expect_points()


@EITHER
def test_depth_that_stops_or_never_fits(camera, repetitions) -> None:
    deep = camera()
    deep.expect_points()
    for _ in range(repetitions):
        deep.publish()
        deep.publish(info=good_info())
        late = good_depth()
        deep.publish(late, good_info())
    deep.stream.serve()
    deep.expect_points()

"""Points and things in space for the frames whose depth comes."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions
from fisa_ros.pipeline.depth_points import POINT_DTYPE

SIZE_HW = (48, 64)
FOCAL_PX = 60.0
DISTANCE_M = 2.0


class DepthCamera:
    """A colour camera with registered depth, and what the node answers."""

    def __init__(self, client, image) -> None:
        self._client = client
        self._image = image
        self._depth = client.node.create_publisher(Image, 'depth', 5)
        self._info = client.node.create_publisher(CameraInfo, 'camera_info', 5)
        self.points = client.listen('segmentation/points', PointCloud2)
        self.detections = client.listen('segmentation/detections_3d', Detection3DArray)
        self.markers = client.listen('segmentation/markers', MarkerArray)
        self.masks = client.listen('segmentation/mask', Image)

    def publish_info(self, header, size_hw=SIZE_HW) -> None:
        height, width = size_hw
        msg = CameraInfo(header=header, height=height, width=width, distortion_model='plumb_bob', d=[0.0] * 5)
        msg.k = [FOCAL_PX, 0.0, width / 2 - 0.5, 0.0, FOCAL_PX, height / 2 - 0.5, 0.0, 0.0, 1.0]
        self._info.publish(msg)

    def publish_image(self, header) -> None:
        self._client.images.publish(conversions.image_to_msg(self._image, 'rgb8', header))

    def publish_depth(self, header, depth=None) -> None:
        depth = np.full(SIZE_HW, DISTANCE_M, np.float32) if depth is None else depth
        encoding = {np.dtype(np.float32): '32FC1', np.dtype(np.uint16): '16UC1'}[depth.dtype]
        self._depth.publish(conversions.image_to_msg(depth, encoding, header))

    def publish(self, depth=None):
        header = self._client.next_header('camera_optical_frame')
        self.publish_info(header)
        self.publish_depth(header, depth)
        self.publish_image(header)
        return header

    def connect(self) -> None:
        """Return when all topics are connected and nothing is under way."""

        def is_answered():
            self.publish()
            self._client.spin_for(0.1)
            return self.points and self.detections and self.markers and self.masks

        self._client.spin_until(is_answered)
        last = self.publish()
        self._client.spin_until(lambda: self.markers[-1].markers[0].header == last)
        self.clear()

    def clear(self) -> None:
        for messages in (self.points, self.detections, self.markers, self.masks):
            messages.clear()


@pytest.fixture
def camera(client, stripes):
    return lambda: DepthCamera(client, stripes())


def cloud_of(msg: PointCloud2) -> np.ndarray:
    return np.frombuffer(bytes(msg.data), POINT_DTYPE).reshape(msg.height, msg.width)


def test_points_lie_on_the_pixels_of_the_mask(client, start_node, colours, camera, stripes) -> None:
    start_node(vocabulary=colours, depth='true')
    depth_camera = camera()
    depth_camera.connect()
    depth = np.full(SIZE_HW, DISTANCE_M, np.float32)
    depth[:5] = np.nan
    header = depth_camera.publish(depth)
    client.spin_until(lambda: depth_camera.points and depth_camera.masks)
    (msg,) = depth_camera.points
    assert msg.header == header == depth_camera.masks[0].header
    assert not msg.is_dense
    assert [field.name for field in msg.fields] == ['x', 'y', 'z', 'rgb', 'class_id', 'instance_id']
    cloud = cloud_of(msg)
    mask = np.frombuffer(depth_camera.masks[0].data, np.uint8).reshape(SIZE_HW)
    assert np.array_equal(cloud['class_id'], mask)
    assert np.isnan(cloud['z'][:5]).all()
    assert (cloud['z'][5:] == DISTANCE_M).all()
    columns = (np.arange(SIZE_HW[1]) - (SIZE_HW[1] / 2 - 0.5)) / FOCAL_PX * DISTANCE_M
    assert np.allclose(cloud['x'][5:], columns, atol=1e-5)
    red, green, blue = (stripes()[..., channel].astype(np.uint32) for channel in range(3))
    assert np.array_equal(cloud['rgb'], red << 16 | green << 8 | blue)


def test_things_have_a_place_in_space_and_a_marker(client, start_node, colours, camera) -> None:
    start_node(vocabulary=colours, depth='true')
    depth_camera = camera()
    depth_camera.connect()
    header = depth_camera.publish(np.full(SIZE_HW, DISTANCE_M * 1000, np.uint16))
    client.spin_until(lambda: depth_camera.detections and depth_camera.markers)
    found = {detection.results[0].hypothesis.class_id: detection for detection in depth_camera.detections[0].detections}
    assert depth_camera.detections[0].header == header
    assert found.keys() == {'red', 'green', 'blue'}
    third_m = SIZE_HW[1] / 3 / FOCAL_PX * DISTANCE_M
    for name, x in (('red', -third_m), ('green', 0.0), ('blue', third_m)):
        center = found[name].bbox.center.position
        assert center.x == pytest.approx(x, abs=0.1)
        assert center.y == pytest.approx(0.0, abs=0.1)
        assert center.z == pytest.approx(DISTANCE_M, abs=0.6)
    markers = depth_camera.markers[0].markers
    assert {marker.text for marker in markers if marker.type == Marker.TEXT_VIEW_FACING and marker.text} == found.keys()
    assert markers[0].action == Marker.DELETEALL


def test_depth_may_come_late(client, start_node, colours, camera) -> None:
    start_node(vocabulary=colours, depth='true')
    depth_camera = camera()
    depth_camera.connect()
    header = client.next_header()
    depth_camera.publish_image(header)
    client.spin_until(lambda: depth_camera.masks)
    client.spin_for(0.2)
    assert depth_camera.points == []
    depth_camera.publish_depth(header)
    client.spin_until(lambda: depth_camera.points)
    assert depth_camera.points[0].header == header


def test_what_cannot_be_used_is_told_and_masks_go_on(client, start_node, colours, camera) -> None:
    node = start_node(vocabulary=colours, depth='true')
    reports = client.listen('/diagnostics', DiagnosticArray, is_matched=False)
    depth_camera = camera()

    def diagnosis():
        statuses = [status for report in reports for status in report.status if status.name.endswith('/image')]
        return statuses[-1] if statuses else DiagnosticStatus()

    def all_but_the_calibration():
        header = client.next_header()
        depth_camera.publish_depth(header)
        depth_camera.publish_image(header)
        client.spin_for(0.05)
        return 'no camera_info has come on /camera_info' in diagnosis().message

    client.spin_until(all_but_the_calibration)
    assert diagnosis().level == DiagnosticStatus.WARN
    assert depth_camera.masks
    assert depth_camera.points == []

    def wrong_size():
        depth_camera.publish(np.ones((24, 32), np.float32))
        client.spin_for(0.05)
        return 'depth image is 32x24, colour image 64x48' in diagnosis().message

    client.spin_until(wrong_size)
    assert depth_camera.points == []
    depth_camera.clear()
    depth_camera.connect()
    assert 'Traceback' not in node.log


def test_depth_of_another_moment_is_not_used(client, start_node, colours, camera) -> None:
    start_node(vocabulary=colours, depth='true')
    depth_camera = camera()
    depth_camera.connect()
    header = client.next_header()
    header.stamp.sec += 10
    later = client.next_header()
    later.stamp.sec = header.stamp.sec + 1
    depth_camera.publish_image(header)
    client.spin_until(lambda: depth_camera.masks)
    depth_camera.publish_depth(later)
    client.spin_for(0.5)
    assert depth_camera.points == []


def test_without_depth_nothing_of_it_is_there(client, start_node, colours) -> None:
    start_node(vocabulary=colours)
    answers = client.listen('segmentation/segments', SegmentArray)
    client.publish_until(lambda: answers)
    for topic in ('points', 'detections_3d', 'markers'):
        assert client.node.count_publishers(f'segmentation/{topic}') == 0
    assert client.node.count_subscribers('depth') == 0

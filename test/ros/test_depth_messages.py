import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from fisa_ros.core.colors import segment_colors
from fisa_ros.core.errors import CalibrationError, ImageError
from fisa_ros.core.results import Segment
from fisa_ros.node import depth_messages
from fisa_ros.pipeline.boxes_3d import Box3d
from fisa_ros.pipeline.depth_points import POINT_DTYPE
from fisa_ros.pipeline.solid_fit import Solid

HEADER = Header(frame_id='optical')
K = [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
P = [400.0, 0.0, 300.0, 0.0, 0.0, 410.0, 200.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def camera_info(**fields):
    defaults = dict(width=640, height=480, k=K, p=P, distortion_model='plumb_bob', d=[0.1, 0.0, 0.0, 0.0, 0.0])
    return CameraInfo(**defaults | fields)


def test_a_calibration_is_read_as_it_is():
    camera = depth_messages.camera_model_from_msg(camera_info())
    assert (camera.size_wh, camera.focal_xy, camera.center_xy) == ((640, 480), (500.0, 510.0), (320.0, 240.0))
    assert (camera.distortion_model, camera.distortion) == ('plumb_bob', (0.1, 0.0, 0.0, 0.0, 0.0))


def test_rectified_images_have_the_projection_and_no_distortion():
    camera = depth_messages.camera_model_from_msg(camera_info(), is_rectified=True)
    assert (camera.focal_xy, camera.center_xy, camera.distortion) == ((400.0, 410.0), (300.0, 200.0), ())


def test_binning_and_region_describe_the_published_image():
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=400, height=200)
    camera = depth_messages.camera_model_from_msg(camera_info(binning_x=2, binning_y=4, roi=roi))
    assert (camera.size_wh, camera.focal_xy, camera.center_xy) == ((200, 50), (250.0, 127.5), (110.0, 50.0))


@pytest.mark.parametrize(
    ('info', 'message'),
    [
        (CameraInfo(width=640, height=480), 'focal lengths are 0 and 0 px'),
        (camera_info(width=0, height=0), 'camera_info describes an image of 0x0 pixels with binning 1x1'),
        (camera_info(binning_x=1000), 'camera_info describes an image of 640x480 pixels with binning 1000x1'),
    ],
)
def test_a_camera_that_is_not_calibrated_is_refused(info, message):
    with pytest.raises(CalibrationError, match=message):
        depth_messages.camera_model_from_msg(info)


def test_depth_is_read_from_the_message():
    msg = Image(height=1, width=3, encoding='16UC1', step=6, data=np.array([0, 1000, 2], '<u2').tobytes())
    np.testing.assert_allclose(depth_messages.depth_from_msg(msg), [[np.nan, 1.0, 0.002]], rtol=1e-6)
    msg.encoding = 'rgb8'
    with pytest.raises(ImageError, match="depth encoding 'rgb8' is not supported"):
        depth_messages.depth_from_msg(msg)


def test_a_cloud_can_be_read_by_others():
    cloud = np.zeros((2, 3), POINT_DTYPE)
    cloud['x'], cloud['y'], cloud['z'] = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    cloud['z'][1, 2] = np.nan
    cloud['rgb'], cloud['class_id'], cloud['instance_id'] = 0x010203, 300, 40000
    msg = depth_messages.points_to_msg(cloud, HEADER)
    msg = deserialize_message(serialize_message(msg), PointCloud2)
    assert (msg.height, msg.width, msg.is_dense, msg.is_bigendian) == (2, 3, False, False)
    assert msg.row_step == 3 * msg.point_step
    assert len(msg.data) == 2 * msg.row_step
    assert msg.header == HEADER
    types = {field.name: field.datatype for field in msg.fields}
    assert types == dict.fromkeys('xyz', PointField.FLOAT32) | {
        'rgb': PointField.FLOAT32, 'class_id': PointField.UINT16, 'instance_id': PointField.UINT16
    }  # fmt: skip
    formats = {PointField.FLOAT32: '<f4', PointField.UINT16: '<u2'}
    layout = np.dtype(
        {
            'names': [field.name for field in msg.fields],
            'formats': [formats[field.datatype] for field in msg.fields],
            'offsets': [field.offset for field in msg.fields],
            'itemsize': msg.point_step,
        }
    )
    points = np.frombuffer(msg.data, layout).reshape(msg.height, msg.width)
    for name in ('x', 'y', 'z', 'class_id', 'instance_id'):
        np.testing.assert_array_equal(points[name], cloud[name])
    assert (np.ascontiguousarray(points['rgb']).view('<u4') == 0x010203).all()


@pytest.fixture
def boxes():
    c, s = np.cos(0.5), np.sin(0.5)
    turned = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    segments = [Segment(number, 3, name, True, 0.75, 9, (0, 0, 3, 3)) for number, name in ((4, 'cup'), (9, 'cup'))]
    return [
        Box3d(segments[0], Solid(np.array([0.1, 0.2, 2.0]), np.array([0.1, 0.2, 0.3]), turned, 'box'), 50),
        Box3d(segments[1], Solid(np.array([0.0, 0.0, 4.0]), np.array([0.4, 0.4, 0.0]), np.eye(3), 'box'), 50),
    ]


def quaternion_matrix(q):
    x, y, z, w = q.x, q.y, q.z, q.w
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_detections_are_the_boxes(boxes):
    msg = depth_messages.detections_3d_to_msg(boxes, HEADER)
    msg = deserialize_message(serialize_message(msg), Detection3DArray)
    assert msg.header == HEADER
    assert [detection.id for detection in msg.detections] == ['4', '9']
    for box, detection in zip(boxes, msg.detections, strict=True):
        assert detection.header == HEADER
        (hypothesis,) = detection.results
        assert (hypothesis.hypothesis.class_id, hypothesis.hypothesis.score) == ('cup', 0.75)
        assert hypothesis.pose.pose == detection.bbox.center
        position, size = detection.bbox.center.position, detection.bbox.size
        np.testing.assert_allclose([position.x, position.y, position.z], box.solid.center)
        np.testing.assert_allclose([size.x, size.y, size.z], box.solid.size)
        np.testing.assert_allclose(quaternion_matrix(detection.bbox.center.orientation), box.solid.rotation, atol=1e-9)


def test_markers_show_boxes_and_names(boxes):
    msg = depth_messages.markers_to_msg(boxes, HEADER, lifetime_s=1.5)
    msg = deserialize_message(serialize_message(msg), MarkerArray)
    shown = [marker for marker in msg.markers if marker.action == Marker.ADD]
    cubes = [marker for marker in shown if marker.type == Marker.CUBE]
    texts = [marker for marker in shown if marker.type == Marker.TEXT_VIEW_FACING]
    assert len(cubes) == len(texts) == 2
    assert len(shown) == 4
    assert [text.text for text in texts] == ['cup', 'cup']
    assert len({(marker.ns, marker.id) for marker in shown}) == 4
    assert {marker.lifetime.sec + marker.lifetime.nanosec * 1e-9 for marker in shown} == {1.5}
    assert all(min(cube.scale.x, cube.scale.y, cube.scale.z) > 0 for cube in cubes)
    colors = [[cube.color.r, cube.color.g, cube.color.b] for cube in cubes]
    np.testing.assert_allclose(colors, segment_colors([box.segment for box in boxes]) / 255, atol=1e-6)
    for cube, text in zip(cubes, texts, strict=True):
        assert 0 < cube.color.a < 1 == text.color.a
        assert text.pose.position.y < cube.pose.position.y - cube.scale.y / 2
        assert 0.03 < text.scale.z < 0.3


def test_markers_first_delete_those_of_the_last_frame(boxes):
    for content in (boxes, []):
        first = depth_messages.markers_to_msg(content, HEADER, namespace='front').markers[:2]
        assert [(marker.action, marker.ns, marker.header.frame_id) for marker in first] == [
            (Marker.DELETEALL, 'front/boxes', 'optical'),
            (Marker.DELETEALL, 'front/names', 'optical'),
        ]
    spaces = {marker.ns for marker in depth_messages.markers_to_msg(boxes, HEADER, namespace='front').markers}
    assert spaces == {'front/boxes', 'front/names'}


def test_numbers_of_numpy_can_be_sent():
    segment = Segment(np.int64(1), 2, 'cat', True, np.float32(0.5), 1, (0, 0, 1, 1))
    box = Box3d(segment, Solid(np.ones(3), np.ones(3), np.eye(3), 'ball'), 12)
    assert serialize_message(depth_messages.detections_3d_to_msg([box], HEADER))
    assert serialize_message(depth_messages.markers_to_msg([box], HEADER))

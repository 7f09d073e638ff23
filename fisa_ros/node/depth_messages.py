"""Between ROS messages and depth: calibrations and depth images in, points, 3D detections and markers out."""

from collections.abc import Sequence
import math

from builtin_interfaces.msg import Duration
import cv2
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

from fisa_ros.core.colors import segment_colors
from fisa_ros.core.errors import CalibrationError
from fisa_ros.pipeline.boxes_3d import Box3d
from fisa_ros.pipeline.camera_model import CameraModel
from fisa_ros.pipeline.depth_points import POINT_DTYPE, decode_depth
from fisa_ros.pipeline.solid_fit import Solid

# rviz2 and PCL know colours as a float of four bytes.
_FIELD_TYPES = {'rgb': PointField.FLOAT32, 'class_id': PointField.UINT16, 'instance_id': PointField.UINT16}
_FIELDS = [
    PointField(name=name, offset=entry[1], datatype=_FIELD_TYPES.get(name, PointField.FLOAT32), count=1)
    for name, entry in (POINT_DTYPE.fields or {}).items()
]
_BOX_ALPHA = 0.4
# rviz2 refuses boxes without extent.
_MIN_MARKER_SIDE_M = 0.005
_TEXT_SHARE_OF_DISTANCE = 0.035
_TEXT_RANGE_M = (0.04, 0.25)


def camera_model_from_msg(msg: CameraInfo, *, is_rectified: bool = False) -> CameraModel:
    """Return the calibration of the images as they are published, with binning and region of interest applied.

    Args:
        msg: The calibration.
        is_rectified: Whether the images are rectified: then P describes them, not K and D.

    Raises:
        CalibrationError: The camera is not calibrated, or by a model that is not supported.
    """
    binning_x, binning_y = max(1, msg.binning_x), max(1, msg.binning_y)
    roi = msg.roi
    width, height = (roi.width, roi.height) if roi.width or roi.height else (msg.width, msg.height)
    if width // binning_x < 1 or height // binning_y < 1:
        raise CalibrationError(
            f'camera_info describes an image of {width}x{height} pixels with binning {binning_x}x{binning_y}'
        )
    values = msg.p if is_rectified else msg.k
    fx, cx, fy, cy = (float(values[index]) for index in ((0, 2, 5, 6) if is_rectified else (0, 2, 4, 5)))
    return CameraModel(
        size_wh=(width // binning_x, height // binning_y),
        focal_xy=(fx / binning_x, fy / binning_y),
        center_xy=((cx - roi.x_offset) / binning_x, (cy - roi.y_offset) / binning_y),
        distortion_model='plumb_bob' if is_rectified else msg.distortion_model,
        distortion=() if is_rectified else tuple(map(float, msg.d)),
    )


def depth_from_msg(msg: Image) -> NDArray[np.float32]:
    """Return a depth image as `(H, W)` float32 m, NaN where there is no depth.

    Raises:
        ImageError: The encoding is not supported or the message contradicts itself.
    """
    return decode_depth(
        msg.data,
        encoding=msg.encoding,
        size_wh=(msg.width, msg.height),
        step=msg.step,
        is_bigendian=bool(msg.is_bigendian),
    )


def points_to_msg(cloud: NDArray[np.void], header: Header) -> PointCloud2:
    """Return an organised cloud; `cloud` is `(H, W)` of `POINT_DTYPE`."""
    msg = PointCloud2(header=header, fields=_FIELDS, is_bigendian=False, is_dense=False)
    msg.height, msg.width = cloud.shape
    msg.point_step = cloud.itemsize
    msg.row_step = cloud.itemsize * msg.width
    # Assigning to `data` copies value by value.
    msg.data.frombytes(memoryview(np.ascontiguousarray(cloud).view(np.uint8)).cast('B'))
    return msg


def detections_3d_to_msg(boxes: Sequence[Box3d], header: Header) -> Detection3DArray:
    """Return the things of a frame in space: the class is the name, the id is the segment's."""
    msg = Detection3DArray(header=header)
    msg.detections = [_detection_to_msg(box, header) for box in boxes]
    return msg


def markers_to_msg(
    boxes: Sequence[Box3d], header: Header, *, namespace: str = '', lifetime_s: float = 2.0
) -> MarkerArray:
    """Return boxes and names for rviz2, which replace those of the frame before.

    The first markers delete what is left of the last frame in the same two namespaces, so a thing that is gone, and an
    array without boxes, leave nothing behind. What a node that ended has shown fades after its lifetime.

    Args:
        boxes: Of one frame.
        header: Of the image.
        namespace: Put in front of the namespaces `boxes` and `names`, to tell cameras on one topic apart.
        lifetime_s: How long markers stay when no further ones come.
    """
    names = [f'{namespace}/{part}' if namespace else part for part in ('boxes', 'names')]
    msg = MarkerArray()
    msg.markers = [Marker(header=header, ns=name, action=Marker.DELETEALL) for name in names]
    lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * 1e9))
    colors = segment_colors([box.segment for box in boxes]).astype(float) / 255
    for box, (red, green, blue) in zip(boxes, colors.tolist(), strict=True):
        shared = {'header': header, 'id': int(box.segment.id), 'action': Marker.ADD, 'lifetime': lifetime}
        sides = np.maximum(box.solid.size, _MIN_MARKER_SIDE_M)
        cube = Marker(ns=names[0], type=Marker.CUBE, pose=_pose_to_msg(box.solid), **shared)
        cube.scale = _vector_to_msg(sides)
        cube.color = ColorRGBA(r=red, g=green, b=blue, a=_BOX_ALPHA)
        text = Marker(ns=names[1], type=Marker.TEXT_VIEW_FACING, text=box.segment.class_name, **shared)
        height_m = float(np.clip(_TEXT_SHARE_OF_DISTANCE * np.linalg.norm(box.solid.center), *_TEXT_RANGE_M))
        # Above the box in the image: y points down.
        above_m = float(np.abs(box.solid.rotation[1]) @ sides) / 2 + height_m
        text.pose.position = _point_to_msg(box.solid.center - (0.0, above_m, 0.0))
        text.pose.orientation.w = 1.0
        text.scale.z = height_m
        text.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        msg.markers += [cube, text]
    return msg


def _detection_to_msg(box: Box3d, header: Header) -> Detection3D:
    msg = Detection3D(header=header, id=str(box.segment.id))
    msg.bbox = BoundingBox3D(center=_pose_to_msg(box.solid), size=_vector_to_msg(box.solid.size))
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = box.segment.class_name
    hypothesis.hypothesis.score = float(box.segment.score)
    hypothesis.pose.pose = msg.bbox.center
    msg.results = [hypothesis]
    return msg


def _pose_to_msg(solid: Solid) -> Pose:
    turn = cv2.Rodrigues(solid.rotation)[0].ravel()
    angle = float(np.linalg.norm(turn))
    x, y, z = (turn * (math.sin(angle / 2) / angle if angle else 0.0)).tolist()
    return Pose(position=_point_to_msg(solid.center), orientation=Quaternion(x=x, y=y, z=z, w=math.cos(angle / 2)))


def _point_to_msg(point: NDArray[np.float64]) -> Point:
    x, y, z = point.tolist()
    return Point(x=x, y=y, z=z)


def _vector_to_msg(vector: NDArray[np.float64]) -> Vector3:
    x, y, z = vector.tolist()
    return Vector3(x=x, y=y, z=z)

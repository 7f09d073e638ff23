"""A camera that walks through a simulated room and sees colour, depth and the exact panoptic truth."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import Segment
from fisa_ros.simulation.object_box import ObjectBox
from fisa_ros.simulation.object_boxes import object_box
from fisa_ros.simulation.opengl import mujoco
from fisa_ros.simulation.room import ALL_STYLES, Room, make_room
from fisa_ros.simulation.scene import FIELD_OF_VIEW_DEG, Scene, build_scene

SCENES = ('room', *ALL_STYLES)
MIN_SEGMENT_SHARE = 2e-4
_MAX_TURN_RAD_S = 0.7
_PLACE_SPACING_M = 0.1
_GOAL_TRIES = 50


class SceneRenderer:
    """Renders a scene from given poses; owns an off-screen context, so use it from one thread and close it."""

    def __init__(self, scene: Scene, size_wh: tuple[int, int]) -> None:
        self.scene = scene
        self.size_wh = size_wh
        self._data = mujoco.MjData(scene.model)
        self._renderer = mujoco.Renderer(scene.model, size_wh[1], size_wh[0])

    def look(self, position: NDArray[np.float64], yaw: float, pitch: float) -> None:
        """Put the camera at `position` (m), looking along `yaw` (rad from x) and `pitch` (rad, up positive)."""
        forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        up = np.cross(right, forward)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, np.stack([right, up, -forward], 1).ravel())
        self._data.mocap_pos[0] = position
        self._data.mocap_quat[0] = quaternion
        mujoco.mj_kinematics(self.scene.model, self._data)
        mujoco.mj_camlight(self.scene.model, self._data)
        self._renderer.update_scene(self._data, camera=0)

    def color(self) -> NDArray[np.uint8]:
        """Return `(H, W, 3)` uint8 rgb."""
        image: NDArray[np.uint8] = self._renderer.render()
        return image

    def depth(self) -> NDArray[np.float32]:
        """Return `(H, W)` float32 depth in m."""
        self._renderer.enable_depth_rendering()
        depth: NDArray[np.float32] = self._renderer.render()
        self._renderer.disable_depth_rendering()
        return depth

    def instances(self) -> NDArray[np.uint16]:
        """Return `(H, W)` uint16 instances, 0 for those too small to count."""
        self._renderer.enable_segmentation_rendering()
        geoms = self._renderer.render()[..., 0]
        self._renderer.disable_segmentation_rendering()
        instance_map = np.append(self.scene.geom_instance, np.uint16(0))[geoms]
        areas = np.bincount(instance_map.ravel(), minlength=len(self.scene.categories) + 1)
        small = areas < max(1.0, MIN_SEGMENT_SHARE * instance_map.size)
        kept = np.where(small, 0, np.arange(len(areas))).astype(np.uint16)
        truth: NDArray[np.uint16] = kept[instance_map]
        return truth

    def segments(self, instance_map: NDArray[np.uint16]) -> tuple[Segment, ...]:
        """Return the segments of an instance map of this scene."""
        segments = []
        for instance in np.flatnonzero(np.bincount(instance_map.ravel())):
            if instance == 0:
                continue
            mask = (instance_map == instance).view(np.uint8)
            x, y, width, height = cv2.boundingRect(mask)
            category = self.scene.categories[instance - 1]
            segments.append(
                Segment(
                    int(instance), category.id, category.name, category.is_thing, 1.0,
                    int(np.count_nonzero(mask)), (x, y, x + width, y + height),
                )
            )  # fmt: skip
        return tuple(segments)

    def boxes(self, segments: tuple[Segment, ...]) -> tuple[ObjectBox, ...]:
        """Return the true boxes, in the camera's optical frame, of the things among the segments of this view."""
        return tuple(
            object_box(self.scene, self._data, segment.id, segment.area / self._unhidden_area(segment.id))
            for segment in segments
            if segment.is_thing
        )

    def _unhidden_area(self, instance: int) -> int:
        """Count the pixels that an instance would cover if nothing stood in front of it."""
        model = self.scene.model
        groups = model.geom_group.copy()
        model.geom_group[:] = self.scene.geom_instance != instance
        only_first = mujoco.MjvOption()
        only_first.geomgroup[1:] = 0
        try:
            self._renderer.update_scene(self._data, camera=0, scene_option=only_first)
            self._renderer.enable_segmentation_rendering()
            area = int(np.count_nonzero(self._renderer.render()[..., 0] >= 0))
        finally:
            self._renderer.disable_segmentation_rendering()
            model.geom_group[:] = groups
            self._renderer.update_scene(self._data, camera=0)
        return area

    def close(self) -> None:
        """Free the off-screen context."""
        self._renderer.close()


def pixel_intrinsics(size_wh: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return (fx, fy, cx, cy) of images of a size, in pixels, for pixel centres at whole numbers."""
    width, height = size_wh
    focal = 240 / np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
    return focal * width / 640, focal * height / 480, (width - 1) / 2, (height - 1) / 2


def free_positions(room: Room, *, clearance_m: float = 0.35) -> NDArray[np.float64]:
    """Return `(n, 2)` floor positions (m) at least `clearance_m` from walls and from standing furniture."""
    xs = np.arange(-room.size[0] / 2 + clearance_m, room.size[0] / 2 - clearance_m, _PLACE_SPACING_M)
    ys = np.arange(-room.size[1] / 2 + clearance_m, room.size[1] / 2 - clearance_m, _PLACE_SPACING_M)
    points = np.stack(np.meshgrid(xs, ys, indexing='ij'), -1).reshape(-1, 2)
    free = np.ones(len(points), bool)
    for placement in room.placements:
        if placement.item.height < 0.05:
            continue
        offset = points - np.asarray(placement.position[:2])
        c, s = np.cos(placement.yaw), np.sin(placement.yaw)
        local = np.abs(np.stack([c * offset[:, 0] + s * offset[:, 1], -s * offset[:, 0] + c * offset[:, 1]], 1))
        gap = np.maximum(local - np.asarray(placement.item.footprint) / 2, 0.0)
        free &= np.hypot(gap[:, 0], gap[:, 1]) > clearance_m
    return points[free] if free.any() else points[len(points) // 2 : len(points) // 2 + 1]


def view_pose(
    rng: np.random.Generator, room: Room, positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float]:
    """Draw a (position, yaw, pitch) that looks across the room."""
    x, y = positions[int(rng.integers(len(positions)))]
    target = rng.uniform(-0.35, 0.35, 2) * np.asarray(room.size[:2])
    yaw = np.arctan2(target[1] - y, target[0] - x) + rng.uniform(-0.35, 0.35)
    height = rng.uniform(0.6, 1.8)
    return np.array([x, y, height]), float(yaw), float(rng.uniform(-0.35, 0.08) - 0.12 * (height - 1))


class SceneCamera:
    """A camera moving smoothly between free places of the room of `seed`.

    Args:
        seed: Number of the room and of the way through it.
        size_wh: Image size (width, height) in pixels.
        scene: One of `SCENES`: a style of room, or 'room' for any but a site's.
        speed_m_s: Walking speed.
        shadows: Whether the main lamp casts shadows.

    Raises:
        ValueError: `scene` is none of `SCENES`.
    """

    def __init__(
        self,
        seed: int,
        size_wh: tuple[int, int] = (640, 480),
        scene: str = 'room',
        *,
        speed_m_s: float = 0.5,
        shadows: bool = False,
    ) -> None:
        if scene not in SCENES:
            raise ValueError(f'scene must be one of {", ".join(SCENES)}, got {scene!r}')
        room = make_room(seed, None if scene == 'room' else scene)
        self.size_wh = size_wh
        self._rng = np.random.default_rng([seed, 1])
        self._room = room
        self._places = free_positions(room)
        self._renderer = SceneRenderer(build_scene(room, size_wh, shadows=shadows), size_wh)
        self._speed = speed_m_s
        self._position, self._yaw, self._pitch = view_pose(self._rng, room, self._places)
        self._goal = self._next_goal()
        self._renderer.look(self._position, self._yaw, self._pitch)

    @property
    def scene(self) -> Scene:
        """The compiled room."""
        return self._renderer.scene

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """(fx, fy, cx, cy) in pixels, for pixel centres at whole numbers."""
        return pixel_intrinsics(self.size_wh)

    def step(self, dt_s: float) -> None:
        """Move on for `dt_s` seconds; a new goal is drawn when one is reached."""
        goal, goal_yaw, goal_pitch = self._goal
        way = goal - self._position
        distance = float(np.linalg.norm(way))
        turn = (goal_yaw - self._yaw + np.pi) % (2 * np.pi) - np.pi
        self._position = self._position + way * min(1.0, self._speed * dt_s / max(distance, 1e-6))
        self._yaw += float(np.clip(turn, -_MAX_TURN_RAD_S * dt_s, _MAX_TURN_RAD_S * dt_s))
        self._pitch += float(np.clip(goal_pitch - self._pitch, -0.3 * dt_s, 0.3 * dt_s))
        if distance < 0.05 and abs(turn) < 0.05:
            self._goal = self._next_goal()
        self._renderer.look(self._position, self._yaw, self._pitch)

    def _next_goal(self) -> tuple[NDArray[np.float64], float, float]:
        """Draw a pose that can be reached on a straight way past the furniture; the last drawn if none can."""
        for _ in range(_GOAL_TRIES):
            goal = view_pose(self._rng, self._room, self._places)
            way = np.linspace(self._position[:2], goal[0][:2], 25)
            nearest = np.linalg.norm(way[:, None] - self._places, axis=-1).min(1)
            if nearest.max() < _PLACE_SPACING_M:
                break
        return goal

    def color(self) -> NDArray[np.uint8]:
        """Return `(H, W, 3)` uint8 rgb of what the camera sees now."""
        return self._renderer.color()

    def depth(self) -> NDArray[np.float32]:
        """Return `(H, W)` float32, the distance along the optical axis in m."""
        return self._renderer.depth()

    def truth(self) -> tuple[NDArray[np.uint16], tuple[Segment, ...]]:
        """Return the exact panoptic truth.

        Returns:
            `(H, W)` uint16 of 1-based instances, the same number for the same object in every frame, 0 for what covers
            less than `MIN_SEGMENT_SHARE` of the image; and one segment per instance, with score 1 and the number of its
            category as `class_id`.
        """
        instance_map = self._renderer.instances()
        return instance_map, self._renderer.segments(instance_map)

    def close(self) -> None:
        """Free the off-screen context."""
        self._renderer.close()

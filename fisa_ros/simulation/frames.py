"""Renders images of one room with their truth: independent views, or frames of a moving camera."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import Segment
from fisa_ros.simulation.camera import SceneCamera, SceneRenderer, free_positions, view_pose
from fisa_ros.simulation.object_box import ObjectBox
from fisa_ros.simulation.room import SITES, make_room
from fisa_ros.simulation.scene import build_scene
from fisa_ros.simulation.site_items import SITE_ITEMS

_MIN_INSTANCES = 4
_RETRY_SHARE = 0.8
_LIGHT_STREAM, _POSE_STREAM = 4, 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One image and what is in it.

    Attributes:
        number: 0-based number of the image in its room.
        color: `(H, W, 3)` uint8 rgb.
        instance_map: `(H, W)` uint16, the same number for the same object in all images of a room, 0 where nothing
            counts.
        segments: One per instance; `class_id` is the id of its category.
        attributes: The adjectives of each of `segments`.
        depth: `(H, W)` float32, the distance along the optical axis in m; None where it was not asked for.
        boxes: Where the things among `segments` are; empty where it was not asked for.
    """

    number: int
    color: NDArray[np.uint8]
    instance_map: NDArray[np.uint16]
    segments: tuple[Segment, ...]
    attributes: tuple[tuple[str, ...], ...]
    depth: NDArray[np.float32] | None
    boxes: tuple[ObjectBox, ...] = ()


def view_frames(
    seed: int,
    numbers: Sequence[int],
    size_wh: tuple[int, int],
    *,
    shadow_share: float,
    with_depth: bool,
    with_boxes: bool = False,
    style: str | None = None,
) -> Iterator[Frame]:
    """Yield independent views of the room of `seed`; view n depends on `seed` and n alone.

    Args:
        seed: Number of the room.
        numbers: Which of its views.
        size_wh: Image size (width, height) in pixels.
        shadow_share: Share of the rooms, in [0, 1], that are lit with shadows.
        with_depth: Whether depth is rendered too.
        with_boxes: Whether the places of things are told too, which takes another rendering for each.
        style: See `make_room`.
    """
    room = make_room(seed, style)
    positions = free_positions(room)
    renderer = SceneRenderer(build_scene(room, size_wh, shadows=_casts_shadows(seed, shadow_share)), size_wh)
    try:
        for number in numbers:
            rng = np.random.default_rng([seed, _POSE_STREAM, number])
            while True:
                renderer.look(*view_pose(rng, room, positions))
                instance_map = renderer.instances()
                segments = renderer.segments(instance_map)
                # Most views of a bare wall, or of a site without its objects, are drawn again; some stay, for cameras
                # see them too.
                shows_site = style not in SITES or any(segment.class_name in SITE_ITEMS for segment in segments)
                if (len(segments) >= _MIN_INSTANCES and shows_site) or rng.random() >= _RETRY_SHARE:
                    break
            attributes = tuple(renderer.scene.attributes[segment.id - 1] for segment in segments)
            depth = renderer.depth() if with_depth else None
            boxes = renderer.boxes(segments) if with_boxes else ()
            yield Frame(number, renderer.color(), instance_map, segments, attributes, depth, boxes)
    finally:
        renderer.close()


def sequence_frames(
    seed: int,
    numbers: Sequence[int],
    size_wh: tuple[int, int],
    *,
    rate_hz: float,
    shadow_share: float,
    with_depth: bool,
    style: str | None = None,
) -> Iterator[Frame]:
    """Yield frames of a camera that walks through the room of `seed`; frame n depends on `seed`, `rate_hz` and n alone.

    Args:
        seed: Number of the room and of the way through it.
        numbers: Which frames, in ascending order; the camera passes the others without an image.
        size_wh: Image size (width, height) in pixels.
        rate_hz: Frames per second.
        shadow_share: Share of the rooms, in [0, 1], that are lit with shadows.
        with_depth: Whether depth is rendered too.
        style: See `make_room`.
    """
    camera = SceneCamera(seed, size_wh, style or 'room', shadows=_casts_shadows(seed, shadow_share))
    try:
        reached = 0
        for number in numbers:
            while reached < number:
                camera.step(1 / rate_hz)
                reached += 1
            instance_map, segments = camera.truth()
            attributes = tuple(camera.scene.attributes[segment.id - 1] for segment in segments)
            depth = camera.depth() if with_depth else None
            yield Frame(number, camera.color(), instance_map, segments, attributes, depth)
    finally:
        camera.close()


def _casts_shadows(seed: int, share: float) -> bool:
    # Only some rooms, so that shadows mean nothing to a network; they cost three times the time, too.
    return bool(np.random.default_rng([seed, _LIGHT_STREAM]).random() < share)

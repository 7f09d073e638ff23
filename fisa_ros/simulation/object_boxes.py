"""Where the objects of a simulated room really are, as boxes in the frame of the camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisa_ros.simulation.opengl import mujoco
from fisa_ros.simulation.scene import CAMERA_BODY, Scene

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
# MuJoCo's cameras look along -z with y up, optical frames along z with y down.
_OPTICAL_FROM_CAMERA = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True, slots=True)
class ObjectBox:
    """The smallest box around one object whose sides are parallel to the axes of the object's own frame.

    Attributes:
        id: The object's instance.
        class_name: Name of its category.
        center: `(3,)` float64, m, in the camera's optical frame (x right, y down, z forward).
        size: `(3,)` float64, full extents along the columns of `rotation`, m.
        rotation: `(3, 3)` float64, from the object's frame to the optical frame.
        visible_share: Of the pixels that it would cover if nothing stood in front of it, the share that shows it.
    """

    id: int
    class_name: str
    center: NDArray[np.float64]
    size: NDArray[np.float64]
    rotation: NDArray[np.float64]
    visible_share: float

    @property
    def corners(self) -> NDArray[np.float64]:
        """`(8, 3)` float64, m."""
        return self.center + (_CORNERS * self.size / 2) @ self.rotation.T


def object_box(scene: Scene, data: mujoco.MjData, instance: int, visible_share: float) -> ObjectBox:
    """Return the true box of a thing.

    Args:
        scene: The room.
        data: Its state, with the poses of bodies and of the camera computed.
        instance: 1-based instance of one thing; fused stuff has no one place.
        visible_share: See `ObjectBox`.
    """
    camera = scene.model.camera(CAMERA_BODY).id
    to_optical = _OPTICAL_FROM_CAMERA @ data.cam_xmat[camera].reshape(3, 3).T
    geoms = np.flatnonzero(scene.geom_instance == instance)
    body = int(scene.model.geom_bodyid[geoms[0]])
    body_rotation = data.xmat[body].reshape(3, 3)
    bounds = scene.model.geom_aabb[geoms]
    corners = bounds[:, None, :3] + _CORNERS * bounds[:, None, 3:]
    in_world = np.einsum('gij,gkj->gki', data.geom_xmat[geoms].reshape(-1, 3, 3), corners)
    in_world += data.geom_xpos[geoms][:, None]
    in_body = (in_world.reshape(-1, 3) - data.xpos[body]) @ body_rotation
    low, high = in_body.min(axis=0), in_body.max(axis=0)
    center = data.xpos[body] + body_rotation @ ((low + high) / 2)
    return ObjectBox(
        instance,
        scene.categories[instance - 1].name,
        to_optical @ (center - data.cam_xpos[camera]),
        high - low,
        to_optical @ body_rotation,
        visible_share,
    )

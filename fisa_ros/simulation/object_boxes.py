"""Where the objects of a simulated room really are, as boxes in the frame of the camera."""

import numpy as np

from fisa_ros.simulation.object_box import UNIT_CORNERS, ObjectBox
from fisa_ros.simulation.opengl import mujoco
from fisa_ros.simulation.scene import CAMERA_BODY, Scene

# MuJoCo's cameras look along -z with y up, optical frames along z with y down.
_OPTICAL_FROM_CAMERA = np.diag([1.0, -1.0, -1.0])


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
    corners = bounds[:, None, :3] + UNIT_CORNERS * bounds[:, None, 3:]
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

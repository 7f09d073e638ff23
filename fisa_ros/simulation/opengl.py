"""Imports MuJoCo, whose own message says nothing of use where OpenGL is missing."""

import os

from fisa_ros.core.errors import FisaError

try:
    import mujoco as mujoco
except (AttributeError, ImportError, OSError) as error:
    platform = os.environ.get('MUJOCO_GL', 'glfw')
    raise FisaError(
        f'MuJoCo cannot use OpenGL with MUJOCO_GL={platform}: {error}; '
        'apt-get install libegl1 libgl1-mesa-dri libosmesa6, and set MUJOCO_GL to egl or osmesa'
    ) from error

"""Open-vocabulary panoptic segmentation for ROS 2.

Nothing may depend on what this file does: the interface generator installs an empty file of the same name, and
on newer distributions that one wins.
"""

import pkgutil

# Lets `python -m fisa_ros...` in the source tree find `fisa_ros.msg` and `fisa_ros.srv` of the install space.
__path__ = pkgutil.extend_path(__path__, __name__)

"""Write an rviz2 file for several cameras: `python -m fisa_ros.tools.rviz_config front rear > cameras.rviz`."""

import argparse
from collections.abc import Sequence
import copy
import sys
from typing import Any

import yaml

from fisa_ros.core.resources import share_dir

_OUTPUTS = 'segmentation/'


def rviz_config(cameras: Sequence[str]) -> dict[str, Any]:
    """Return the shipped rviz2 configuration with a group of displays for each camera.

    Args:
        cameras: Names as in the parameter `cameras` of the node; for one without a name there is no group.
    """
    config: dict[str, Any] = yaml.safe_load((share_dir() / 'config' / 'segment.rviz').read_text())
    manager = config['Visualization Manager']
    shared = [display for display in manager['Displays'] if not _is_of_camera(display)]
    own = [display for display in manager['Displays'] if _is_of_camera(display)]
    manager['Displays'] = shared
    for camera in cameras:
        manager['Displays'] += [_group(own, camera)] if camera else own
    return config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0."""
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.rviz_config',
        description='Write an rviz2 configuration with a group of displays for each camera to standard output.',
    )
    parser.add_argument('cameras', nargs='+', metavar='CAMERA', help='name of a camera, as in the parameter `cameras`')
    options = parser.parse_args(arguments)
    yaml.safe_dump(rviz_config(options.cameras), sys.stdout, sort_keys=False, allow_unicode=True)
    return 0


def _is_of_camera(display: dict[str, Any]) -> bool:
    return 'Topic' in display and str(display['Topic']['Value']).startswith(_OUTPUTS)


def _group(displays: Sequence[dict[str, Any]], camera: str) -> dict[str, Any]:
    own = copy.deepcopy(list(displays))
    for display in own:
        # The window of a picture is known by its name alone.
        display['Name'] = f'{display["Name"]} {camera}'
        display['Topic']['Value'] = f'{camera}/{display["Topic"]["Value"]}'
    return {'Class': 'rviz_common/Group', 'Displays': own, 'Enabled': True, 'Name': camera, 'Value': True}


if __name__ == '__main__':
    sys.exit(main())

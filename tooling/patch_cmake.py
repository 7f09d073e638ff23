"""Rewrite the include paths of the ROS wheels' CMake files to those of the running interpreter.

The wheels carry the paths of the machine that built them, and CMake stops at an include path that does not exist.
"""

from pathlib import Path
import re
import sys
import sysconfig

import numpy

BUILD_MACHINE_PYTHON = r'/opt/python/cp[0-9]+-cp[0-9]+'


def main() -> None:
    replacements = {
        rf'{BUILD_MACHINE_PYTHON}/lib/python[0-9.]+/site-packages/numpy/_?core/include': numpy.get_include(),
        rf'{BUILD_MACHINE_PYTHON}/include/python[0-9.]+': sysconfig.get_path('include'),
    }
    for path in Path(sys.prefix, 'share').rglob('*.cmake'):
        text = patched = path.read_text(encoding='utf-8')
        for pattern, here in replacements.items():
            patched = re.sub(pattern, lambda _, here=here: here, patched)
        if patched != text:
            path.write_text(patched, encoding='utf-8')


main()

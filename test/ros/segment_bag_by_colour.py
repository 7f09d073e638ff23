"""The command line of `segment_bag` with the model that names colours; it takes SEGMENT_S seconds an image."""

import os
import sys

from nearest_colour import FailingSegmenter

from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools.segment_bag import main

# Not below: the processes that the command starts import this file too.
Segmenter.load = lambda *_: FailingSegmenter(float(os.environ.get('SEGMENT_S', '0')), 0.0, None)

if __name__ == '__main__':
    sys.exit(main())

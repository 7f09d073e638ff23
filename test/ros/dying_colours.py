"""The model that names colours, for processes that import it by name."""

import os
from pathlib import Path

from nearest_colour import FailingSegmenter

from fisa_ros.node.bag_outputs import OutputMaker


def load_colours(options):
    """Load a model; the first process that does so ends without a word before its tenth image."""
    maker = OutputMaker(FailingSegmenter(0.0, 0.0, None), options)
    flag = Path(os.environ['DIE_ONCE'])
    if not flag.exists():
        answer, count = maker.answer, 0

        def answer_and_die(*arguments):
            nonlocal count
            count += 1
            if count == 10:
                flag.touch()
                os._exit(1)
            return answer(*arguments)

        maker.answer = answer_and_die
    return maker

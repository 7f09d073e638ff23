"""One way out of every lifecycle transition: rclpy itself drops the exceptions of a transition without a word."""

from collections.abc import Callable
from functools import wraps
import logging

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from fisa_ros.core.errors import FisaError

_log = logging.getLogger(__name__)


def transition[N: LifecycleNode](
    action: Callable[[N, LifecycleState], None],
) -> Callable[[N, LifecycleState], TransitionCallbackReturn]:
    """Make a transition of a method that returns nothing and raises what goes wrong.

    A `FisaError` is for the user, who can mend its cause and try again: its text is logged and the node stays in its
    state. Anything else is logged with its traceback and sends the node to error processing.
    """
    name = action.__name__.removeprefix('on_')

    @wraps(action)
    def run(node: N, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            action(node, state)
        except FisaError as error:
            _log.error(f'cannot {name}: {error}')
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            if not node.context.ok():
                # Nothing works in a process that is about to end. rclpy would catch an Exception and try to go on.
                raise KeyboardInterrupt from error
            _log.exception(f'{name} failed')
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    return run

"""What rclpy lacks for managed nodes: it drops the exceptions of a transition, and dies of one that is not possible."""

from collections.abc import Callable
from functools import wraps
import logging
from typing import Any

from rclpy._rclpy_pybind11 import RCLError
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


class ManagedNode(LifecycleNode):
    """A lifecycle node that refuses a transition which its state does not have.

    rclpy lets the error out of the callback of the service: the node would end, and the caller would wait for ever.
    """

    # The name that Python gives to the private method of the base, which serves `change_state`.
    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:  # noqa: N802
        try:
            return super()._LifecycleNodeMixin__on_change_state(request, response)  # type: ignore[misc]
        except RCLError:
            if not self.context.ok():
                raise
            wanted = request.transition.label or request.transition.id
            _log.warning(
                f'transition {wanted!r:.40} refused: state {self._state_machine.current_state[1]} has no such one'
            )
            response.success = False
            return response

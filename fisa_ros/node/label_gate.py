"""Masks wait until the names of their classes have arrived."""

from collections.abc import Sequence
import time
from typing import Any

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.publisher import Publisher

# Who listens to masks listens to labels too, but the one connection may be found some milliseconds before the other.
_SETTLE_S = 0.05
_TIMEOUT_S = 0.5
_POLL_S = 0.002


class LabelGate:
    """Keeps a mask from overtaking the labels it needs; between two topics DDS keeps no order.

    Nav2's semantic layer ends its process on a mask before the first labels. A listener that has just come gets the
    latched labels up to 150 ms after it may get masks, and new labels take milliseconds.

    `wait` and `note_labels` are called from the thread that publishes.
    """

    def __init__(self) -> None:
        self._num_matches = 0
        self._num_matches_seen = 0
        self._num_listeners = 0
        self._has_new_labels = False

    @property
    def mask_events(self) -> PublisherEventCallbacks:
        """What a publisher of masks must be created with, so that one listener in place of another is noticed."""
        return PublisherEventCallbacks(matched=self._note_match)

    def note_labels(self) -> None:
        """Make the next `wait` wait until all have received what was published."""
        self._has_new_labels = True

    def wait(self, labels: Publisher, masks: Sequence[Publisher]) -> bool:
        """Return when all listeners have the labels: at once, unless labels or a listener of a mask are new.

        Args:
            labels: Reliable, transient local.
            masks: What needs the labels.

        Returns:
            False if somebody did not confirm in half a second; it is not waited for again.
        """
        num_matches, num_listeners = self._num_matches, sum(mask.get_subscription_count() for mask in masks)
        has_newcomer = num_listeners > self._num_listeners or num_matches > self._num_matches_seen
        is_open = not has_newcomer and not self._has_new_labels
        self._num_matches_seen, self._num_listeners, self._has_new_labels = num_matches, num_listeners, False
        if is_open:
            return True
        if has_newcomer:
            time.sleep(_SETTLE_S)
        return _wait_for_confirmation(labels)

    def _note_match(self, status: Any) -> None:
        # One that goes and one that comes may be told together: then only the total tells.
        self._num_matches += status.total_count_change


def _wait_for_confirmation(labels: Publisher) -> bool:
    # With a timeout rclpy would wait with the interpreter locked, and all other threads with it.
    end_s = time.monotonic() + _TIMEOUT_S
    while not labels.wait_for_all_acked(Duration()):
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True

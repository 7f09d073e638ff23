"""Masks wait until the names of their classes have arrived."""

from collections.abc import Sequence
import time
from typing import Any

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.publisher import Publisher

# One who listens to both is found twice, the second time some milliseconds after the first.
_SETTLE_S = 0.1
# What has arrived is not yet read: whoever is late takes a mask first when both lie there.
_READ_S = 0.2
_TIMEOUT_S = 0.5
_MAX_CLOSED_S = 1.0


class LabelGate:
    """Keeps a mask from overtaking the labels it needs; between two topics DDS keeps no order.

    Nav2's semantic layer ends its process on a mask before the first labels. A listener that has just come gets the
    latched labels up to 150 ms after it may get masks, and new labels take milliseconds.

    `is_open` and `note_labels` are called from the thread that publishes.
    """

    def __init__(self) -> None:
        self._mask_listeners = _Listeners()
        self._label_listeners = _Listeners()
        self._opens_s = 0.0
        # Until when confirmation is waited for; None if everything is confirmed.
        self._confirmed_by_s: float | None = None
        self._is_newcomer_awaited = False
        self._closed_s: float | None = None

    @property
    def mask_events(self) -> PublisherEventCallbacks:
        """What a publisher of masks must be created with."""
        return PublisherEventCallbacks(matched=self._mask_listeners.note_match)

    @property
    def label_events(self) -> PublisherEventCallbacks:
        """What the publisher of labels must be created with."""
        return PublisherEventCallbacks(matched=self._label_listeners.note_match)

    def note_labels(self) -> None:
        """Stay closed until all have received what was published."""
        self._confirmed_by_s = time.monotonic() + _TIMEOUT_S

    def is_open(self, labels: Publisher, masks: Sequence[Publisher]) -> bool:
        """Return True if masks may be sent: unless labels or listeners are new.

        Who does not confirm in half a second is not waited for again; and it opens after a second, however many come.

        Args:
            labels: Reliable, transient local.
            masks: What needs the labels.
        """
        now_s = time.monotonic()
        if self._may_open(now_s, labels, masks):
            self._closed_s = None
            return True
        self._closed_s = now_s if self._closed_s is None else self._closed_s
        return now_s - self._closed_s >= _MAX_CLOSED_S

    def _may_open(self, now_s: float, labels: Publisher, masks: Sequence[Publisher]) -> bool:
        if self._mask_listeners.has_newcomer(masks):
            self._opens_s = now_s + _SETTLE_S
        if self._label_listeners.has_newcomer([labels]):
            self._confirmed_by_s = now_s + _TIMEOUT_S
            self._is_newcomer_awaited = True
        if self._confirmed_by_s is not None:
            # With a timeout rclpy would wait with the interpreter locked, and all other threads with it.
            if now_s < self._confirmed_by_s and not labels.wait_for_all_acked(Duration()):
                return False
            self._confirmed_by_s = None
            if self._is_newcomer_awaited:
                self._is_newcomer_awaited = False
                self._opens_s = now_s + _READ_S
        return now_s >= self._opens_s


class _Listeners:
    """Notices newcomers by their number, and, when one comes in another's place, by the events of the publishers."""

    def __init__(self) -> None:
        self._num_matches = 0
        self._num_matches_seen = 0
        self._num_seen = 0

    def note_match(self, status: Any) -> None:
        """Take an event; called from the executor's thread."""
        # One that goes and one that comes may be told together: then only the total tells.
        self._num_matches += status.total_count_change

    def has_newcomer(self, publishers: Sequence[Publisher]) -> bool:
        """Return True if a listener came since the last call; called from the thread that publishes."""
        num_matches, num = self._num_matches, sum(publisher.get_subscription_count() for publisher in publishers)
        is_new = num > self._num_seen or num_matches > self._num_matches_seen
        self._num_matches_seen, self._num_seen = num_matches, num
        return is_new

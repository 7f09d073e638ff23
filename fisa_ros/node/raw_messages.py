"""Serialised messages of types that are only known by name."""

import importlib
import struct
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message

from fisa_ros.core.errors import BagError

TF_TYPE = 'tf2_msgs/msg/TFMessage'
# Encapsulation (4 bytes), then the stamp, of every message that begins with a header.
_STAMP_AT = 4
_STAMP_END = _STAMP_AT + 8
_S_IN_NS = 1_000_000_000


def find_type(msg_type: str) -> Any:
    """Return the class of a message type such as `sensor_msgs/msg/Image`, None if it is not installed."""
    package, _, kind = msg_type.split('/') if msg_type.count('/') == 2 else ('', '', '')
    try:
        found = getattr(importlib.import_module(f'{package}.msg'), kind, None) if package else None
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def read_message(data: bytes, msg_type: str) -> Any:
    """Return a message.

    Raises:
        BagError: The bytes are no such message, or the type is not installed.
    """
    kind = find_type(msg_type)
    if kind is None:
        raise BagError(f'the message type {msg_type} is not installed')
    # rclpy's binding raises errors of its own, which have no public name.
    try:
        return deserialize_message(data, kind)
    except Exception as error:
        raise BagError(f'{len(data)} bytes are no {msg_type}: {str(error).partition(", at /")[0]}') from error


class StampShift:
    """Moves the stamps of the messages of one type in time; a type without stamps is left as it is."""

    def __init__(self, msg_type: str) -> None:
        """Look up where the type has its stamps."""
        kind = find_type(msg_type)
        fields = kind.get_fields_and_field_types() if kind else {}
        self._starts_with_header = next(iter(fields.items()), None) == ('header', 'std_msgs/Header')
        self._is_tf = msg_type == TF_TYPE

    def check(self, data: bytes) -> None:
        """Look whether a serialised message can be moved.

        Raises:
            BagError: It is damaged.
        """
        if self._is_tf:
            read_message(data, TF_TYPE)

    def apply(self, data: bytes, shift_ns: int) -> bytes:
        """Return a serialised message whose stamps are later by `shift_ns`; what does not fit into a stamp stays.

        Raises:
            BagError: See `check`.
        """
        if not shift_ns:
            return data
        if self._is_tf:
            return self._shift_transforms(data, shift_ns)
        if not self._starts_with_header or len(data) < _STAMP_END:
            return data
        layout = '<iI' if data[1] & 1 else '>iI'
        sec, nanosec = struct.unpack(layout, data[_STAMP_AT:_STAMP_END])
        moved = _move(sec, nanosec, shift_ns)
        return data[:_STAMP_AT] + struct.pack(layout, *moved) + data[_STAMP_END:]

    def _shift_transforms(self, data: bytes, shift_ns: int) -> bytes:
        message = read_message(data, TF_TYPE)
        for transform in message.transforms:
            stamp = transform.header.stamp
            stamp.sec, stamp.nanosec = _move(stamp.sec, stamp.nanosec, shift_ns)
        return bytes(serialize_message(message))


def _move(sec: int, nanosec: int, shift_ns: int) -> tuple[int, int]:
    moved = divmod(sec * _S_IN_NS + nanosec + shift_ns, _S_IN_NS)
    return moved if 0 <= moved[0] < 1 << 31 else (sec, nanosec)

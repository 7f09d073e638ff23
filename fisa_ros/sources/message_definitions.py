"""Definitions of message types, as recordings store them."""

import os
from pathlib import Path
from typing import NamedTuple

from rosbags.interfaces import Connection, MessageDefinitionFormat, Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from fisa_ros.core.errors import BagError

# What ROS calls the hash of a type that it knows nothing about.
NO_HASH = 'INVALID'
_IDL_RULE = '=' * 80


class Definition(NamedTuple):
    """The text of a type with all that it consists of, and its RIHS01 hash."""

    text: str
    type_hash: str


def installed_types(msg_types: list[str]) -> Typestore:
    """Read types, with all that they consist of, from the installed ROS packages.

    Args:
        msg_types: Such as `sensor_msgs/msg/Image`.

    Raises:
        BagError: One is not installed.
    """
    store = get_typestore(Stores.EMPTY)
    waiting = list(msg_types)
    while waiting:
        name = waiting.pop()
        if name in store.fielddefs:
            continue
        package, _, kind = name.split('/')
        types = get_types_from_msg(_find(package, kind).read_text(encoding='utf-8'), name)
        store.register(types)
        waiting += [used for _, fields in types.values() for _, field in fields for used in _names(field)]
    return store


def definition_of(msg_type: str, store: Typestore) -> Definition:
    """Return the definition of a type that the store has."""
    return Definition(store.generate_msgdef(msg_type, ros_version=2)[0], store.hash_rihs01(msg_type))


def recorded_definition(connection: Connection) -> Definition:
    """Return the definition that a recording holds, or if it holds none, that of the installed type of this name.

    The text is empty where nobody knows the type.
    """
    text, name = connection.msgdef.data, connection.msgtype
    if connection.msgdef.format == MessageDefinitionFormat.NONE:
        try:
            installed = definition_of(name, installed_types([name]))
        except (BagError, ValueError):
            return Definition('', connection.digest or NO_HASH)
        is_same = connection.digest in ('', installed.type_hash)
        return installed if is_same else Definition('', connection.digest)
    if connection.msgdef.format == MessageDefinitionFormat.IDL and not text.startswith(f'{_IDL_RULE}\nIDL: '):
        text = f'{_IDL_RULE}\nIDL: {name}\n{text}'
    return Definition(text, connection.digest or _hash(connection))


def _hash(connection: Connection) -> str:
    if connection.msgdef.format != MessageDefinitionFormat.MSG:
        return NO_HASH
    store = get_typestore(Stores.EMPTY)
    # Recordings hold definitions of all kinds; a message is carried over even if this library cannot read its type.
    try:
        store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        return store.hash_rihs01(connection.msgtype)
    except Exception:
        return NO_HASH


def _find(package: str, kind: str) -> Path:
    prefixes = [Path(prefix) for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix]
    for prefix in prefixes:
        path = prefix / 'share' / package / 'msg' / f'{kind}.msg'
        if path.is_file():
            return path
    raise BagError(f'the message type {package}/msg/{kind} is not installed (AMENT_PREFIX_PATH)')


def _names(field: tuple[Nodetype, object]) -> list[str]:
    """Return the message types that a field names: itself, or the type of its elements."""
    kind, value = field
    if kind == Nodetype.NAME:
        return [str(value)]
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return _names(value[0])  # type: ignore[index]
    return []

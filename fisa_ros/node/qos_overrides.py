"""Quality of service that a user sets by parameters `qos_overrides.<topic>.<side>.<policy>`."""

from enum import Enum

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from fisa_ros.node.parameters import ParameterError, read_overrides

# Whole numbers where there is no type.
_POLICIES: dict[str, type[Enum] | None] = {
    'reliability': ReliabilityPolicy,
    'durability': DurabilityPolicy,
    'history': HistoryPolicy,
    'depth': None,
}


def overriding_options(node: Node, topic: str, side: str) -> QoSOverridingOptions:
    """Return the options that let rclpy apply what the node's parameters give for a topic, and nothing else.

    rclpy keeps a policy for the life of the node once it is declared, so the others must stay undeclared: an input
    chooses them anew with each publisher.

    Args:
        node: Whose parameters count.
        topic: Full name, remapped.
        side: `subscription` or `publisher`.

    Raises:
        ParameterError: A policy or its value does not exist.
    """
    prefix = f'qos_overrides.{topic}.{side}.'
    given = {name: value for name, value in read_overrides(node).items() if name.startswith(prefix)}
    for name, value in given.items():
        _check(name, name.removeprefix(prefix), value)
    return QoSOverridingOptions([QoSPolicyKind[name.removeprefix(prefix).upper()] for name in given])


def _check(name: str, policy: str, value: object) -> None:
    if policy not in _POLICIES:
        raise ParameterError(f'parameter {name}: {policy!r} is none of {", ".join(_POLICIES)}')
    kind = _POLICIES[policy]
    if kind is None:
        if type(value) is not int or value < 1:
            raise ParameterError(f'parameter {name} must be a whole number of at least 1, got {value!r}')
        return
    values = [member.name.lower() for member in kind if member.name != 'UNKNOWN']
    if str(value).lower() not in values:
        raise ParameterError(f'parameter {name} must be one of {", ".join(values)}, got {value!r}')

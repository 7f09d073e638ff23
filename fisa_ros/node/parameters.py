"""Parameters of a node, declared once as the fields of a frozen dataclass.

A field's type and default are the parameter's; `param` adds what a user needs to know. `ParameterStore` declares the
fields on a node and always holds the values in use as one object, so that a thread sees old or new, never a mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
import logging
import math
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from fisa_ros.core.errors import FisaError

_log = logging.getLogger(__name__)
_SIMILARITY = 0.75


class ParameterError(FisaError):
    """A parameter that does not exist or has a value that it cannot have."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a parameter's value must obey, and what it is for."""

    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    read_only: bool


def param(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    """Return a dataclass field that is a parameter.

    Args:
        default: The value unless a user gives another.
        description: One sentence, shown by `ros2 param describe`.
        low: Smallest value.
        high: Largest value.
        choices: All values of a text.
        read_only: True if the value can only be given at start.
    """
    return field(default=default, metadata={'rule': Rule(description, low, high, choices, read_only)})


@dataclass(frozen=True)
class Parameters:
    """Base of a node's parameters; every field is made by `param`.

    Raises:
        ParameterError: A value breaks its rule.
    """

    def __post_init__(self) -> None:
        for name, rule in rules(type(self)).items():
            _check(name, getattr(self, name), rule)


def rules(parameters: type[Parameters]) -> dict[str, Rule]:
    """Return the rule of each parameter."""
    return {entry.name: entry.metadata['rule'] for entry in fields(parameters)}


class ParameterStore[P: Parameters]:
    """The parameters of one node: declares them, judges changes and holds the values in use."""

    def __init__(self, node: Node, defaults: P, prefix: str = '', other_prefixes: Sequence[str] = ()) -> None:
        """Declare every parameter on the node, with the values given at its start.

        Args:
            node: Owns the parameters.
            defaults: The values that hold unless others are given.
            prefix: Put in front of every name; ends with a dot unless it is empty.
            other_prefixes: Those of the node's other stores, which look after the names that begin so.

        Raises:
            ParameterError: A value breaks its rule, or a name is nearly that of a parameter.
        """
        self.current = defaults
        self._prefix = prefix
        overrides = read_overrides(node)
        declared = {f'{prefix}{name}': rule for name, rule in rules(type(defaults)).items()}
        for name, rule in declared.items():
            default = getattr(defaults, name.removeprefix(prefix))
            try:
                node.declare_parameter(name, default, _descriptor(rule, default))
            except ParameterException:
                raise ParameterError(_explain(name, overrides[name], default, rule)) from None
        self.current = self._candidate(node.get_parameters(list(declared)))
        mine = {name: value for name, value in overrides.items() if name.startswith(prefix)}
        _check_names(node, [name for name in mine if not name.startswith(tuple(other_prefixes))], list(declared))
        node.add_on_set_parameters_callback(self._judge)
        node.add_post_set_parameters_callback(self._apply)

    def _candidate(self, changes: list[Parameter]) -> P:
        known = rules(type(self.current))
        values = {
            change.name.removeprefix(self._prefix): tuple(change.value) if type(change.value) is list else change.value
            for change in changes
            if change.name.startswith(self._prefix)
        }
        try:
            return replace(self.current, **{name: value for name, value in values.items() if name in known})
        except ParameterError as error:
            raise ParameterError(str(error).replace('parameter ', f'parameter {self._prefix}', 1)) from None

    def _judge(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._candidate(changes)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply(self, changes: list[Parameter]) -> None:
        self.current = self._candidate(changes)


def read_overrides(node: Node) -> dict[str, Any]:
    """Return the values that files and the command line give to this node's parameters, by name."""
    with node.handle:
        return {name: parameter.value for name, parameter in node.handle.get_parameters(Parameter).items()}


def _check(name: str, value: object, rule: Rule) -> None:
    if rule.choices and value not in rule.choices:
        raise ParameterError(f'parameter {name} must be one of {", ".join(rule.choices)}, got {value!r}')
    if isinstance(value, int | float) and not isinstance(value, bool):
        low = -math.inf if rule.low is None else rule.low
        high = math.inf if rule.high is None else rule.high
        if not low <= value <= high:
            raise ParameterError(f'parameter {name} must be in {_interval(rule)}, got {value}')


def _interval(rule: Rule) -> str:
    low = '(-inf' if rule.low is None else f'[{rule.low}'
    high = 'inf)' if rule.high is None else f'{rule.high}]'
    return f'{low}, {high}'


def _descriptor(rule: Rule, default: object) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=rule.description, read_only=rule.read_only)
    if rule.choices:
        descriptor.additional_constraints = f'one of {", ".join(rule.choices)}'
    elif rule.low is not None and rule.high is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=rule.low, to_value=rule.high)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(rule.low), to_value=int(rule.high))]
    return descriptor


def _explain(name: str, value: object, default: object, rule: Rule) -> str:
    if isinstance(default, float) and type(value) is int:
        return f'parameter {name} is a decimal number: write {value}.0 instead of {value}'
    if isinstance(default, tuple):
        return f'parameter {name} must be a list of texts, got {value!r}'
    if type(value) is not type(default):
        return f'parameter {name} must be of type {type(default).__name__}, got {value!r}'
    return f'parameter {name} must be in {_interval(rule)}, got {value}'


def _check_names(node: Node, names: list[str], known: list[str]) -> None:
    for name in names:
        if node.has_parameter(name) or name.startswith('qos_overrides.'):
            continue
        similar = get_close_matches(name, known, n=1, cutoff=_SIMILARITY)
        if similar:
            raise ParameterError(f'there is no parameter {name}, did you mean {similar[0]}?')
        # A file for the whole robot may give values to all nodes that only some of them know.
        _log.warning(f'parameter {name} is not one of this node and is ignored')

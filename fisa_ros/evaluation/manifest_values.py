"""Changes numbers in the text of a model manifest and nothing else: comments and order stay."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from fisa_ros.core.errors import ManifestError
from fisa_ros.core.unfinished_file import written_aside


def write_values(path: Path, values: Mapping[str, Mapping[str, float]]) -> None:
    """Set values in a manifest; the file is replaced in one step.

    Args:
        path: The manifest.
        values: By section, then by key, as `{'thresholds': {'score': 0.3}}`; a key that is not there is added.

    Raises:
        ManifestError: The file cannot be read or written, or has no such section; it stays as it is.
    """
    changed = _changed_text(path, values)
    try:
        with written_aside(path) as aside:
            aside.write_text(changed, encoding='utf-8')
    except OSError as error:
        raise ManifestError(f'model manifest {path} cannot be written: {error}') from error


def check_values(path: Path, name: str, values: Mapping[str, Mapping[str, float]]) -> None:
    """Check that `write_values` can set such values in the manifest of a model, and change nothing.

    Args:
        path: The manifest.
        name: Name of the model.
        values: See `write_values`.

    Raises:
        ManifestError: The file cannot be read, has no such section or is of another model.
    """
    found = yaml.safe_load(_changed_text(path, values)).get('name')
    if found != name:
        raise ManifestError(f'model manifest {path} cannot be changed: it is of model {found!r}, not {name!r}')


def _changed_text(path: Path, values: Mapping[str, Mapping[str, float]]) -> str:
    try:
        return set_values(path.read_text(encoding='utf-8'), values)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise ManifestError(f'model manifest {path} cannot be changed: {error}') from error


def set_values(text: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """Return a YAML text with other values.

    Raises:
        ValueError: A section is missing or is no mapping, or the result would not say what it should.
    """
    expected = yaml.safe_load(text)
    for section, entries in values.items():
        for key, value in entries.items():
            text = _set_value(text, section, key, value)
        # A new mapping: the old one may be shared with another section by an alias.
        expected[section] = {**expected[section], **entries}
    if yaml.safe_load(text) != expected:
        raise ValueError('its form is too unusual to change numbers in place')
    return text


def _set_value(text: str, section: str, key: str, value: float) -> str:
    root = yaml.compose(text)
    mapping = _entry(root, section)
    if not isinstance(mapping, MappingNode) or not mapping.value:
        raise ValueError(f'it has no mapping {section!r}')
    node = _entry(mapping, key)
    if node is not None:
        return text[: node.start_mark.index] + repr(value) + text[node.end_mark.index :]
    if mapping.flow_style:
        end = mapping.value[-1][1].end_mark.index
        return f'{text[:end]}, {key}: {value!r}{text[end:]}'
    # After the last value that ends where it seems to: marks of nested blocks lie on a later line.
    ends = [value.end_mark for name, value in mapping.value if value.end_mark.line == name.start_mark.line]
    if not ends:
        raise ValueError(f'{section!r} has no value in one line, after which {key!r} could stand')
    before, newline, after = text[ends[-1].index :].partition('\n')
    indent = ' ' * mapping.value[0][0].start_mark.column
    return f'{text[: ends[-1].index]}{before}\n{indent}{key}: {value!r}{newline}{after}'


def _entry(node: Any, key: str) -> Node | None:
    pairs = node.value if isinstance(node, MappingNode) else []
    return next((value for name, value in pairs if isinstance(name, ScalarNode) and name.value == key), None)

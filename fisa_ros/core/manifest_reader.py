"""Takes the values of a manifest out of its YAML document."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisa_ros.core.errors import ManifestError


class ManifestReader:
    """Takes values out of a mapping and refuses what does not fit, with the file and the key in the text.

    Attributes:
        path: The file.
        prefix: What comes before the keys of this mapping, such as `weights.`.
        mapping: The mapping itself.
    """

    def __init__(self, path: Path, mapping: Any, prefix: str = '') -> None:
        self.path = path
        self.prefix = prefix
        if not isinstance(mapping, dict):
            raise ManifestError(f'model manifest {path}: {prefix.rstrip(".") or "the file"} must be a mapping')
        self.mapping = mapping

    def require_plain(self) -> None:
        """Refuse keys that are no text, and values that JSON has none of, at any depth."""
        self._require_plain(self.mapping, ())

    def _require_plain(self, value: Any, keys: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                if not isinstance(key, str):
                    raise self.error('.'.join((*keys, repr(key))), 'must be text, in quotes, as all keys')
                self._require_plain(entry, (*keys, key))
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                self._require_plain(entry, (*keys, str(index)))
        elif not isinstance(value, str | int | float | None):
            raise self.error('.'.join(keys), f'must be text or a number, got {value!r}')

    def refuse_unknown(self, known: tuple[str, ...]) -> None:
        """Refuse keys that mean nothing."""
        for key in self.mapping:
            if key not in known:
                raise self.error(str(key), f'is unknown, known are {", ".join(known)}')

    def error(self, key: str, text: str) -> ManifestError:
        """Return the error that says what is wrong with the value of a key."""
        return ManifestError(f'model manifest {self.path}: {self.prefix}{key} {text}')

    def get(self, key: str) -> Any:
        """Return any value; the key must be there."""
        if key not in self.mapping:
            raise self.error(key, 'is missing')
        return self.mapping[key]

    def text(self, key: str) -> str:
        """Return a text that is not blank."""
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f'must be text, got {value!r}')
        return value.strip()

    def sha256(self, key: str) -> str | None:
        """Return 64 hexadecimal digits, or None for null."""
        if self.get(key) is None:
            return None
        sha256 = self.text(key).lower()
        if len(sha256) != 64 or not set(sha256) <= set('0123456789abcdef'):
            raise self.error(key, f'must be 64 hexadecimal digits, got {sha256!r}')
        return sha256

    def below(self, key: str) -> 'ManifestReader':
        """Return the reader of a mapping inside this one."""
        return ManifestReader(self.path, self.get(key), f'{self.prefix}{key}.')

    def entry(self, key: str, index: int, entry: Any) -> 'ManifestReader':
        """Return the reader of a mapping in the list at `key`."""
        return ManifestReader(self.path, entry, f'{self.prefix}{key}[{index}].')

    def component(self, key: str) -> Mapping[str, Any]:
        """Return a mapping that has a `type`."""
        reader = self.below(key)
        reader.text('type')
        return dict(reader.mapping)

    def fraction(self, key: str) -> float:
        """Return a number in [0, 1]."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            raise self.error(key, f'must be a number in [0, 1], got {value!r}')
        return float(value)

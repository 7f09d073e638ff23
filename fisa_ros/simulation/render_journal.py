"""What of a data set is finished: a file of lines that only grows, so that an interrupted run can go on."""

import fcntl
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fisa_ros.core.errors import DataError


class RenderJournal:
    """The arguments of a set in the first line, then one line per finished image; locked while it is open.

    Args:
        path: The file; made where there is none.
        arguments: What the images depend on, as plain values.

    Raises:
        DataError: The file is broken, was begun with other arguments, or another run has it open.
    """

    def __init__(self, path: Path, arguments: dict[str, Any]) -> None:
        self.records: dict[int, dict[str, Any]] = {}
        self._file = path.open('a+b')
        try:
            self._lock(path)
            self._read(path, json.loads(json.dumps(arguments)))
        except BaseException:
            self._file.close()
            raise

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f'{path} is in use: another run is writing this data set') from None

    def _read(self, path: Path, arguments: dict[str, Any]) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b'\n') + 1]
        # The line that a killed run was writing.
        self._file.truncate(len(whole))
        try:
            first, *rest = [json.loads(line) for line in whole.splitlines()] or [None]
            self.records = {int(record['image']['id']): record for record in rest}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f'{path} is broken, delete the data set: {type(error).__name__} {error}') from error
        if first is None:
            self._append(arguments)
        elif first != arguments:
            differing = [key for key in {**first, **arguments} if first.get(key) != arguments.get(key)]
            texts = [f'{key} {first.get(key)}, not {arguments.get(key)}' for key in differing]
            raise DataError(f'{path}: this data set was begun with {"; ".join(texts)}; take another folder')

    def add(self, record: dict[str, Any]) -> None:
        """Note a finished image; `record['image']['id']` tells it from the others."""
        self.records[record['image']['id']] = record
        self._append(record)

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b'\n')
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

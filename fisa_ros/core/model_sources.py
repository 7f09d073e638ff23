"""Public checkpoints that the weights of a model are put together from, as its manifest names them."""

from collections.abc import Mapping
from dataclasses import dataclass
import os
from pathlib import PurePosixPath
import re
from typing import Any
from urllib.parse import quote

from fisa_ros.core.manifest_reader import ManifestReader

# Which layouts of tensors each part of a model may come in.
LAYOUTS = {
    'generator': ('eomt', 'eomt_native', 'mask2former'),
    'classifier': ('open_clip', 'detectron2'),
}
_DEFAULT_ENDPOINT = 'https://huggingface.co'
_REPO = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: Its path in the repository.
        size: Its length in bytes; None where it is not known beforehand.
        sha256: Its sum, 64 hexadecimal digits; None where it is not known beforehand.
    """

    name: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A checkpoint that one part of a model starts from.

    Attributes:
        part: `generator` or `classifier`; a text encoder of CLIP comes with the classifier.
        layout: How its tensors are named, one of `LAYOUTS`.
        repo: Its repository on the Hugging Face Hub, `owner/name`.
        revision: Branch, tag or commit there.
        files: What is needed of it.
        licence: Licence of its weights.
    """

    part: str
    layout: str
    repo: str
    revision: str
    files: tuple[SourceFile, ...]
    licence: str


def read_sources(reader: ManifestReader) -> dict[str, ModelSource]:
    """Read the optional `sources` of a manifest, by part.

    Raises:
        ManifestError: They break their form; the text says where.
    """
    if 'sources' not in reader.mapping:
        return {}
    sources = reader.below('sources')
    sources.refuse_unknown(tuple(LAYOUTS))
    return {part: _source(part, sources.below(part)) for part in sources.mapping}


def _source(part: str, reader: ManifestReader) -> ModelSource:
    reader.refuse_unknown(('layout', 'repo', 'revision', 'files', 'licence'))
    layout = reader.text('layout')
    if layout not in LAYOUTS[part]:
        raise reader.error('layout', f'must be one of {", ".join(LAYOUTS[part])}, got {layout!r}')
    repo = reader.text('repo')
    if not _REPO.fullmatch(repo):
        raise reader.error('repo', f'must be owner/name, got {repo!r}')
    files = reader.get('files')
    if not isinstance(files, list) or not files:
        raise reader.error('files', f'must be a list of files, got {files!r}')
    read = tuple(_file(reader.entry('files', index, entry)) for index, entry in enumerate(files))
    if len({file.name for file in read}) < len(read):
        raise reader.error('files', 'has the same name twice')
    return ModelSource(part, layout, repo, reader.text('revision'), read, reader.text('licence'))


def _file(reader: ManifestReader) -> SourceFile:
    reader.refuse_unknown(('name', 'size', 'sha256'))
    name = reader.text('name')
    path = PurePosixPath(name)
    # It becomes a path on this machine.
    if path.is_absolute() or '..' in path.parts or str(path) != name or '\\' in name:
        raise reader.error('name', f'must be a path inside the repository, got {name!r}')
    return SourceFile(name, _size(reader), reader.sha256('sha256'))


def _size(reader: ManifestReader) -> int | None:
    size: Any = reader.get('size')
    if size is not None and (type(size) is not int or size < 0):
        raise reader.error('size', f'must be a number of bytes or null, got {size!r}')
    return size


def source_files(sources: Mapping[str, ModelSource]) -> list[tuple[ModelSource, SourceFile]]:
    """List all files of all sources, each with its source."""
    return [(source, file) for source in sources.values() for file in source.files]


def hub_endpoint() -> str:
    """Return the address of the Hugging Face Hub, or of the mirror that `HF_ENDPOINT` names."""
    return (os.environ.get('HF_ENDPOINT') or _DEFAULT_ENDPOINT).rstrip('/')


def file_url(endpoint: str, source: ModelSource, file: SourceFile) -> str:
    """Return the address of a file on a hub."""
    return f'{endpoint}/{source.repo}/resolve/{quote(source.revision, safe="")}/{quote(file.name)}'

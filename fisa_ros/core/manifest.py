"""Model manifests: one YAML file describes a model whole."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
import hashlib
import json
from pathlib import Path
import shlex
from typing import Any

import yaml

from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.core.manifest_reader import ManifestReader
from fisa_ros.core.model_sources import ModelSource, read_sources
from fisa_ros.core.placement import BLACK_RGB, RESIZE_KINDS, STRETCH, Resize
from fisa_ros.core.resources import models_dir, share_dir
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.weights_sum import note_sum, noted_sum, sha256_of

_MAX_SIDE = 4096
# What tuning makes of CLIP; the others use it as it is, or bring their own weights.
_TUNED_CLASSIFIERS = ('open_clip',)
# The mean of ImageNet, which is 0 where the colours are normalised; the others pad with black.
_PAD_RGB = {'mask2former': (124, 116, 104)}
_KEYS = (
    'name',
    'description',
    'licence',
    'image_size_hw',
    'resize',
    'weights',
    'generator',
    'classifier',
    'text_encoder',
    'prompt_templates',
    'thresholds',
    'sources',
)
_COMPONENTS = ('generator', 'classifier', 'text_encoder')
# Arguments of the classifier that are used after training alone.
_NOT_OF_WEIGHTS = ('temperature', 'merge_size')


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights and the sum that tells whether it is the right one.

    Attributes:
        path: Where the file is.
        sha256: Its sum; None where no weights are shipped and none are there.
    """

    path: Path
    sha256: str | None


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A model: what it is made of and how it is used.

    Attributes:
        name: Name of the model, the same as its file's.
        description: One sentence.
        licence: Licence of the weights.
        image_size_hw: Size of the network's input.
        weights: Where the weights are.
        generator: `type` and arguments of the mask generator.
        classifier: `type` and arguments of the mask classifier.
        text_encoder: `type` and arguments of the text encoder.
        prompt_templates: Sentences with one `{}` each, into which a name is put.
        thresholds: Defaults that fit the model.
        path: The manifest's own file; None where it has none.
        sources: Public checkpoints that the weights are put together from, by part; empty where they are shipped.
        resize: How images come to `image_size_hw`.
        folder_name: Name of `folder`, by default that of the model.
    """

    name: str
    description: str
    licence: str
    image_size_hw: tuple[int, int]
    weights: WeightsFile
    generator: Mapping[str, Any]
    classifier: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    prompt_templates: tuple[str, ...]
    thresholds: Thresholds
    path: Path | None = None
    sources: Mapping[str, ModelSource] = field(default_factory=dict)
    resize: Resize = STRETCH
    folder_name: str = ''

    @property
    def folder(self) -> Path:
        """Where the sources lie and the weights that are made of them; it need not exist."""
        return models_dir() / (self.folder_name or self.name)

    @property
    def argument(self) -> str:
        """What names the model on a command line: its name if it is shipped, or else the path of its manifest."""
        is_shipped = self.path is None or self.path.parent == share_dir() / 'models'
        return self.name if is_shipped else str(self.path)


def shipped_models() -> tuple[str, ...]:
    """Return the names of the models that have a manifest in the package."""
    return tuple(sorted(path.stem for path in (share_dir() / 'models').glob('*.yaml')))


def load_manifest(name_or_path: str | Path) -> ModelManifest:
    """Read the manifest of a shipped model, by its name, or any manifest, by the path of its YAML file.

    Raises:
        ManifestError: The manifest is missing, cannot be read or breaks its form; the text says where.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in ('.yaml', '.yml'):
        names = shipped_models()
        if str(name_or_path) not in names:
            known = f'shipped are {", ".join(names)}' if names else 'none is shipped'
            raise ManifestError(f'unknown model {str(name_or_path)!r}: {known}; or give the path of a manifest (.yaml)')
        path = share_dir() / 'models' / f'{name_or_path}.yaml'
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ManifestError(f'model manifest {path} cannot be read: {error}') from error
    reader = ManifestReader(path, document)
    reader.require_plain()
    return _build(reader)


def weights_recipe(
    generator: Mapping[str, Any],
    classifier: Mapping[str, Any],
    text_encoder: Mapping[str, Any],
    sources: Mapping[str, ModelSource],
) -> str:
    """Return what of a manifest decides the weights that are made of its sources; arguments are its attributes."""
    trained = {key: value for key, value in classifier.items() if key not in _NOT_OF_WEIGHTS}
    fetched = {
        part: {key: value for key, value in asdict(source).items() if key != 'licence'}
        for part, source in sources.items()
    }
    return json.dumps([generator, trained, text_encoder, fetched], sort_keys=True)


def verify_weights(manifest: ModelManifest) -> None:
    """Check that the weights of a model are there and are the right ones.

    Raises:
        WeightsError: They are missing or damaged; the text says so too if none are shipped for the model.
    """
    weights = manifest.weights
    if weights.sha256 is None and not weights.path.is_file():
        raise WeightsError(f'{unshipped_weights(manifest)} (looked for {weights.path})')
    try:
        verify_file(weights.path, weights.sha256)
    except WeightsError as error:
        if not are_assembled(manifest):
            raise
        raise WeightsError(f'{error}; to make them anew: {download_command(manifest)}') from error


def unshipped_weights(manifest: ModelManifest) -> str:
    """Return what to say of a model that comes without weights."""
    download = f'to get them: {download_command(manifest)}; ' if manifest.sources else ''
    return (
        f'no weights are shipped for model {manifest.name!r}; {download}to try its size and speed with random ones: '
        f'python -m fisa_ros.tools.export --model {shlex.quote(manifest.argument)} --random-weights'
    )


def download_command(manifest: ModelManifest) -> str:
    """Return the command that fetches the sources of a model and puts its weights together."""
    return f'python -m fisa_ros.tools.models download {shlex.quote(manifest.argument)}'


def untuned_note(manifest: ModelManifest) -> str | None:
    """Return what to say of FISA with weights that nobody trained; None for all other models.

    No weights of FISA were ever published, so what is put together from public checkpoints has those of CLIP.
    """
    if not are_assembled(manifest) or manifest.classifier['type'] not in _TUNED_CLASSIFIERS:
        return None
    return (
        f'{manifest.name} is untuned: its classifier is frozen CLIP with mask tokens, for no weights of FISA were '
        f'ever published; train it (python -m fisa_ros.tools.train --recipe coco-{manifest.name}) or use pooled-l'
    )


def are_assembled(manifest: ModelManifest) -> bool:
    """Tell whether the weights of a model are, or will be, put together from its sources, not shipped or put there."""
    return bool(manifest.sources) and manifest.weights.path.parent == manifest.folder


def file_sha256(path: Path) -> str:
    """Return the sum of a file, 64 hexadecimal digits.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise WeightsError(f'weights {path} cannot be read: {error}') from error


def verify_file(path: Path, sha256: str | None) -> None:
    """Check that a file is there and, if its sum is given, that it is the right one.

    Raises:
        WeightsError: It is missing or its sum is another; the text names both sums.
    """
    found = file_sha256(path)
    if sha256 is not None and found != sha256:
        size = path.stat().st_size
        raise WeightsError(f'weights {path} ({size} bytes) are damaged: sha256 is {found}, expected {sha256}')


def _build(reader: ManifestReader) -> ModelManifest:
    reader.refuse_unknown(_KEYS)
    name = reader.text('name')
    if name != reader.path.stem:
        raise reader.error('name', f'is {name!r}, but the file is {reader.path.name}')
    sources = read_sources(reader)
    generator, classifier, text_encoder = (reader.component(key) for key in _COMPONENTS)
    folder_name = name
    if sources:
        folder_name = _folder_name(reader, name, weights_recipe(generator, classifier, text_encoder, sources))
    return ModelManifest(
        name=name,
        description=reader.text('description'),
        licence=reader.text('licence'),
        image_size_hw=_size(reader),
        weights=_weights(reader.below('weights'), folder_name, has_sources=bool(sources)),
        generator=generator,
        classifier=classifier,
        text_encoder=text_encoder,
        prompt_templates=_templates(reader),
        thresholds=_thresholds(reader.below('thresholds')),
        path=reader.path,
        sources=sources,
        resize=_resize(reader, str(generator['type'])),
        folder_name=folder_name,
    )


def _folder_name(reader: ManifestReader, name: str, recipe: str) -> str:
    """Return the name of a model's folder; what has a shipped model's name and other weights has its own."""
    path = share_dir() / 'models' / f'{name}.yaml'
    if reader.path == path or not path.is_file():
        return name
    shipped = ManifestReader(path, yaml.safe_load(path.read_text(encoding='utf-8')))
    generator, classifier, text_encoder = (shipped.component(key) for key in _COMPONENTS)
    if recipe == weights_recipe(generator, classifier, text_encoder, read_sources(shipped)):
        return name
    return f'{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}'


def _size(reader: ManifestReader) -> tuple[int, int]:
    size = reader.get('image_size_hw')
    if not isinstance(size, list) or len(size) != 2 or not all(type(v) is int and 1 <= v <= _MAX_SIDE for v in size):
        raise reader.error('image_size_hw', f'must be [height, width], each in 1..{_MAX_SIDE}, got {size!r}')
    return size[0], size[1]


def _resize(reader: ManifestReader, generator: str) -> Resize:
    kind = reader.mapping.get('resize', 'stretch')
    if kind not in RESIZE_KINDS:
        raise reader.error('resize', f'must be one of {", ".join(RESIZE_KINDS)}, got {kind!r}')
    return Resize(kind, _PAD_RGB.get(generator, BLACK_RGB)) if kind == 'pad' else STRETCH


def _weights(reader: ManifestReader, folder_name: str, *, has_sources: bool) -> WeightsFile:
    reader.refuse_unknown(('file', 'sha256'))
    path = reader.path.parent / reader.text('file')
    sha256 = reader.sha256('sha256')
    if sha256 is None:
        if has_sources and not path.is_file():
            path = models_dir() / folder_name / path.name
        return WeightsFile(path, _expected_sum(path) if path.is_file() else None)
    return WeightsFile(path, sha256)


def _expected_sum(path: Path) -> str:
    """Return the sum that weights whose manifest tells none must have; `verify_weights` finds damaged ones."""
    if (noted := noted_sum(path)) is not None:
        return noted
    # The sum of what a user put there: graphs and embeddings of other weights must not pass for those of these.
    found = file_sha256(path)
    noted = noted_sum(path, may_be_copy=True)
    if found == noted:
        with suppress(OSError):
            note_sum(path, found)
    return noted or found


def _templates(reader: ManifestReader) -> tuple[str, ...]:
    templates = reader.get('prompt_templates')
    if not isinstance(templates, list) or not templates:
        raise reader.error('prompt_templates', f'must be a list of sentences, got {templates!r}')
    for template in templates:
        if not isinstance(template, str) or template.count('{}') != 1:
            raise reader.error('prompt_templates', f'must have one {{}} in each sentence, got {template!r}')
    return tuple(templates)


def _thresholds(reader: ManifestReader) -> Thresholds:
    reader.refuse_unknown(('score', 'mask', 'overlap', 'objectness_trust'))
    trust = {'objectness_trust': reader.fraction('objectness_trust')} if 'objectness_trust' in reader.mapping else {}
    return Thresholds(reader.fraction('score'), reader.fraction('mask'), reader.fraction('overlap'), **trust)

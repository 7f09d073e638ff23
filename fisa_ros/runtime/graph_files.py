"""Exported graphs on disk: what they are called, what they are of, and whether they are whole."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import hashlib
import json
from pathlib import Path
import shlex
from typing import Any

from fisa_ros.core.errors import GraphsError
from fisa_ros.core.manifest import ModelManifest, unshipped_weights
from fisa_ros.core.placement import STRETCH
from fisa_ros.core.resources import cache_dir
from fisa_ros.core.weights_sum import sha256_of
from fisa_ros.runtime.verified_files import NOTES_FILE, find_damaged

# Raised whenever the same model would be exported to other graphs.
GRAPH_FORMAT = 2
ENCODER_FILE = 'encoder.onnx'
# The same in half precision inside, and with more of it left in float32.
FP16_ENCODER_FILE = 'encoder_fp16.onnx'
SAFE_FP16_ENCODER_FILE = 'encoder_fp16_safe.onnx'
# For CPUs; only where it agrees with the first.
INT8_ENCODER_FILE = 'encoder_int8.onnx'
ENCODER_FILES = (ENCODER_FILE, FP16_ENCODER_FILE, SAFE_FP16_ENCODER_FILE)
HEAD_FILE = 'head.onnx'
TEXT_FILE = 'text.onnx'
TOKENIZER_FILE = 'tokenizer.json'
REFERENCE_FILE = 'reference.npz'
DESCRIPTION_FILE = 'graphs.json'

ENCODER_INPUTS = ('image', 'semantic_tokens', 'token_mask')
ENCODER_OUTPUTS = ('mask_logits', 'mask_embeddings', 'objectness')
HEAD_INPUTS = (*ENCODER_OUTPUTS, 'text_embeddings', 'synonym_mask', 'is_thing', 'thresholds')
HEAD_OUTPUTS = ('query_map', 'class_index', 'score')
TEXT_INPUTS = ('token_ids', 'attention_mask')
TEXT_OUTPUTS = ('embeddings',)


@dataclass(frozen=True, slots=True)
class GraphsDescription:
    """What graphs of one model are, as `graphs.json` says.

    Attributes:
        model: Name of the model.
        source: Sum of all that decides what is exported, see `source_key`.
        image_size_hw: Size of the images that the encoder takes.
        num_masks: Number N of masks.
        mask_size_hw: Size of their logits.
        embedding_dim: Length D of the embeddings.
        num_semantic_tokens: Number M of semantic tokens.
        is_text_cleaned: Whether a sentence goes through `clean_clip_text` before it is tokenised.
        made_with: Versions of what made them.
        files: Sum of each file in the folder, but of `graphs.json` itself.
    """

    model: str
    source: str
    image_size_hw: tuple[int, int]
    num_masks: int
    mask_size_hw: tuple[int, int]
    embedding_dim: int
    num_semantic_tokens: int
    is_text_cleaned: bool
    made_with: Mapping[str, str]
    files: Mapping[str, str]


def source_key(manifest: ModelManifest) -> str:
    """Return the sum of all in a manifest that decides what its graphs compute; thresholds are inputs of theirs."""
    parts: dict[str, Any] = {
        'format': GRAPH_FORMAT,
        'image_size_hw': manifest.image_size_hw,
        'weights': manifest.weights.sha256,
        'generator': manifest.generator,
        'classifier': manifest.classifier,
        'text_encoder': manifest.text_encoder,
    }
    if manifest.resize != STRETCH:
        # Ranges of integers are read off images that were brought to their size.
        parts['resize'] = asdict(manifest.resize)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def graphs_folder(manifest: ModelManifest) -> Path:
    """Return where the graphs of a model lie unless the user says otherwise; it need not exist."""
    return cache_dir() / manifest.name / source_key(manifest)[:16]


def export_command(manifest: ModelManifest) -> str:
    """Return the command that makes the graphs of a model."""
    return f'python -m fisa_ros.tools.export --model {shlex.quote(manifest.argument)}'


def write_description(folder: Path, description: GraphsDescription) -> None:
    """Write `graphs.json`."""
    text = json.dumps({'format': GRAPH_FORMAT, **asdict(description)}, indent=1)
    (folder / DESCRIPTION_FILE).write_text(text + '\n', encoding='utf-8')


def file_sums(folder: Path) -> dict[str, str]:
    """Return the sum of each file in a folder of graphs, external data among them, but of `graphs.json`."""
    others = (DESCRIPTION_FILE, NOTES_FILE)
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name not in others}


def open_graphs(folder: Path, manifest: ModelManifest) -> GraphsDescription:
    """Read `graphs.json` and check that every file is there, whole, and of this model; see `find_damaged`.

    Raises:
        GraphsError: Something is missing, damaged or of another model; the text says what and how to mend it.
    """
    mend = f'export anew: {export_command(manifest)}'
    path = folder / DESCRIPTION_FILE
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        how = export_command(manifest) if manifest.weights.sha256 else unshipped_weights(manifest)
        raise GraphsError(f'model {manifest.name!r} has no exported graphs in {folder}: {how}') from None
    except (OSError, ValueError) as error:
        raise GraphsError(f'{path} cannot be read: {error}; {mend}') from error
    description = _description(document, path, mend)
    if description.source != source_key(manifest):
        raise GraphsError(f'graphs in {folder} were exported from another {description.model!r}; {mend}')
    try:
        damaged = find_damaged(folder, description.files)
    except OSError as error:
        raise GraphsError(f'{error.filename} cannot be read: {error}; {mend}') from error
    for name, found in damaged.items():
        file = folder / name
        raise GraphsError(
            f'{file} ({file.stat().st_size} bytes) is damaged: '
            f'sha256 is {found}, expected {description.files[name]}; {mend}'
        )
    return description


def _description(document: Any, path: Path, mend: str) -> GraphsDescription:
    if not isinstance(document, dict) or document.get('format') != GRAPH_FORMAT:
        found = document.get('format') if isinstance(document, dict) else document
        raise GraphsError(f'{path} is of format {found!r}, this version reads {GRAPH_FORMAT}; {mend}')
    try:
        fields = {name: document[name] for name in GraphsDescription.__dataclass_fields__}
        for name in ('image_size_hw', 'mask_size_hw'):
            height, width = fields[name]
            fields[name] = (int(height), int(width))
        description = GraphsDescription(**fields)
        missing = {ENCODER_FILE, HEAD_FILE, TEXT_FILE, TOKENIZER_FILE, REFERENCE_FILE} - set(description.files)
    except (KeyError, TypeError, ValueError) as error:
        raise GraphsError(f'{path} does not describe graphs: {error!r}; {mend}') from error
    if missing:
        raise GraphsError(f'{path} does not list {", ".join(sorted(missing))}; {mend}')
    return description

"""The graphs of the crop pipeline on disk, in a folder of their own beside those of the model."""

from dataclasses import asdict, dataclass, replace
import json
from pathlib import Path
from typing import Any

from fisa_ros.core.errors import GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.runtime.graph_files import DESCRIPTION_FILE, file_sums, source_key

# Raised whenever the same model would be exported to other crop graphs.
CROPS_FORMAT = 2
GENERATOR_FILE = 'generator.onnx'
CLIP_IMAGE_FILE = 'clip_image.onnx'

GENERATOR_INPUTS = ('image',)
GENERATOR_OUTPUTS = ('mask_logits', 'objectness')
CLIP_IMAGE_INPUTS = ('crops',)
CLIP_IMAGE_OUTPUTS = ('embeddings',)


@dataclass(frozen=True, slots=True)
class CropsDescription:
    """What the crop graphs of one model are.

    Attributes:
        model: Name of the model.
        source: `source_key` of the model.
        crop_size_hw: Size of the crops that CLIP takes, in pixels.
        files: Sum of each file, but of the description itself.
    """

    model: str
    source: str
    crop_size_hw: tuple[int, int]
    files: dict[str, str]


def crops_folder(graphs: Path, crop_size: int | None = None) -> Path:
    """Return where the crop graphs lie beside a model's `graphs`; it need not exist.

    Args:
        graphs: Folder of the model's graphs.
        crop_size: Edge of the crops in pixels; None is the size that the classifier has in the manifest.
    """
    return graphs / ('crops' if crop_size is None else f'crops_{crop_size}')


def write_crops_description(folder: Path, description: CropsDescription) -> None:
    """Write the description into the folder of the crop graphs."""
    text = json.dumps({'format': CROPS_FORMAT, **asdict(description)}, indent=1)
    (folder / DESCRIPTION_FILE).write_text(text + '\n', encoding='utf-8')


def open_crop_graphs(folder: Path, manifest: ModelManifest) -> CropsDescription:
    """Read the description of crop graphs and check that they are there, whole, and of this model.

    Raises:
        GraphsError: They are missing, damaged or of another model.
    """
    path = folder / DESCRIPTION_FILE
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        if document.pop('format') != CROPS_FORMAT:
            raise GraphsError(f'{path} is not of format {CROPS_FORMAT}, which this version reads')
        description = CropsDescription(**document)
        height, width = description.crop_size_hw
        description = replace(description, crop_size_hw=(height, width))
        found = file_sums(folder)
    except FileNotFoundError:
        raise GraphsError(f'model {manifest.name!r} has no crop graphs in {folder}') from None
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise GraphsError(f'{path} cannot be read: {error!r}') from error
    if description.source != source_key(manifest):
        raise GraphsError(f'crop graphs in {folder} were exported from another {description.model!r}')
    for name in {GENERATOR_FILE, CLIP_IMAGE_FILE, *description.files}:
        if found.get(name) != description.files.get(name) or name not in found:
            raise GraphsError(f'{folder / name} is missing or damaged')
    return description

"""Exports what the crop pipeline runs besides a model's own graphs: its mask generator, and its CLIP on crops."""

import copy
from pathlib import Path
import tempfile

import torch
from torch import Tensor, nn
from torch.export import Dim
import torch.nn.functional as F

from fisa_ros.core.errors import GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.networks.conv_stem import fold_batch_norms
from fisa_ros.networks.image_tower import FisaImageTower
from fisa_ros.networks.load import load_network
from fisa_ros.networks.pooled_tower import PooledImageTower
from fisa_ros.runtime import crop_files
from fisa_ros.runtime.graph_export import export_graph, replace_folder
from fisa_ros.runtime.graph_files import file_sums, source_key

_MAX_CROPS = 4096


class GeneratorGraph(nn.Module):
    """Image to masks."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(N, h, w)` mask logits and `(N,)` objectness of `(H, W, 3)` uint8 rgb."""
        proposals = self.generator(image.permute(2, 0, 1)[None].float() / 255)
        return proposals.mask_logits[0], proposals.objectness[0]


class ClipImageGraph(nn.Module):
    """Crops to CLIP's own embeddings: no mask tokens, no words."""

    def __init__(self, tower: FisaImageTower | PooledImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, crops: Tensor) -> Tensor:
        """Return `(B, D)` unit rows of `(B, H, W, 3)` uint8 rgb."""
        return self.tower.image_embedding(crops.permute(0, 3, 1, 2).float() / 255)


def export_crop_graphs(
    manifest: ModelManifest, folder: Path, crop_size: int | None = None
) -> crop_files.CropsDescription:
    """Export the graphs into `folder`, which is replaced in one step; what was there stays if anything fails.

    Args:
        manifest: The model.
        folder: Where the graphs go, see `crop_files.crops_folder`.
        crop_size: Edge of the crops in pixels; None is the size that the classifier has in the manifest. The positions
            of a ViT are interpolated.

    Raises:
        WeightsError: The weights are missing or do not fit.
        GraphsError: The classifier cannot take crops of this size.
    """
    network = load_network(manifest)
    fold_batch_norms(network.eval())
    network.requires_grad_(False)
    tower = network.tower if crop_size is None else tower_for_size(network.tower, crop_size)
    height, width = (crop_size, crop_size) if crop_size else tower.visual.image_size
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as temporary:
        part = Path(temporary) / 'graphs'
        part.mkdir()
        export_generator(network.generator, part / crop_files.GENERATOR_FILE, manifest.image_size_hw)
        export_clip_image(tower, part / crop_files.CLIP_IMAGE_FILE, (height, width))
        description = crop_files.CropsDescription(
            model=manifest.name,
            source=source_key(manifest),
            crop_size_hw=(height, width),
            files=file_sums(part),
        )
        crop_files.write_crops_description(part, description)
        replace_folder(part, folder)
    return description


def export_generator(generator: nn.Module, path: Path, image_size_hw: tuple[int, int]) -> None:
    """Export a mask generator for one image of a fixed size."""
    image = torch.zeros(*image_size_hw, 3, dtype=torch.uint8)
    export_graph(
        GeneratorGraph(generator).eval(), (image,), path, crop_files.GENERATOR_INPUTS, crop_files.GENERATOR_OUTPUTS
    )


def export_clip_image(tower: FisaImageTower | PooledImageTower, path: Path, crop_size_hw: tuple[int, int]) -> None:
    """Export a tower's own image embedding of any number of crops."""
    # Not 1, or the exporter takes it for a constant.
    crops = torch.zeros(3, *crop_size_hw, 3, dtype=torch.uint8)
    export_graph(
        ClipImageGraph(tower).eval(), (crops,), path, crop_files.CLIP_IMAGE_INPUTS, crop_files.CLIP_IMAGE_OUTPUTS,
        ({0: Dim('crops', min=1, max=_MAX_CROPS)},),
    )  # fmt: skip


def tower_for_size(tower: FisaImageTower | PooledImageTower, size: int) -> FisaImageTower | PooledImageTower:
    """Return a copy of a tower that embeds images of `size` x `size` pixels.

    Raises:
        GraphsError: The size is below 1 or no multiple of the patch size of a ViT.
    """
    patch = tower.visual.patch_size[0] if isinstance(tower, FisaImageTower) else 1
    if size < 1 or size % patch:
        raise GraphsError(f'size of the crops must be a positive multiple of {patch} pixels, got {size}')
    tower = copy.deepcopy(tower)
    if isinstance(tower, FisaImageTower):
        visual = tower.visual
        positions = visual.positional_embedding.detach()
        grid = positions[1:].T.unflatten(1, visual.grid_size)[None]
        edge = size // patch
        grid = F.interpolate(grid, (edge, edge), mode='bicubic', antialias=True, align_corners=False)
        positions = torch.cat([positions[:1], grid[0].flatten(1).T])
        visual.positional_embedding = nn.Parameter(positions, requires_grad=False)
        visual.grid_size, visual.image_size = (edge, edge), (size, size)
    return tower

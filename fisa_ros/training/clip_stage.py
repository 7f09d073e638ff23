"""Pre-trains the image tower of a tiny CLIP on captions, with a frozen text encoder.

Image and caption pairs are crops around single objects. As all crops of an image share one pass of the stem, and only a
few patches of each are kept (Li et al., FLIP, 2023), a crop costs a fraction of an image. No mask is used here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
import logging
from pathlib import Path

from accelerate import PartialState
from open_clip.transformer import VisionTransformer
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import STRETCH
from fisa_ros.datasets.captions import read_captions
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.networks.image_tower import clip_block
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.training.caption_crops import CaptionedCrops, CropBatch
from fisa_ros.training.checkpoint import load_tensors, save_tensors
from fisa_ros.training.loop import train
from fisa_ros.training.mask_accuracy import VALIDATION_IMAGES, mask_accuracy
from fisa_ros.training.memory_errors import images_beside_steps
from fisa_ros.training.processes import Processes
from fisa_ros.training.settings import Phase, RunSettings, phase_seed
from fisa_ros.training.terms import Term
from fisa_ros.training.vocabulary_sampler import DISTRACTORS, SampledVocabulary

_MAX_LOGIT_SCALE = 60.0
_LOG = logging.getLogger('fisa_ros.training')


@dataclass(frozen=True, slots=True)
class ClipOptions:
    """Settings of the stage.

    Attributes:
        crops_per_image: At most so many crops of each image.
        patches_per_crop: Number of patches that are kept of a crop.
        frozen_stem_steps: Steps before the stem of the tower learns too.
        whole_images: Whether captions of whole images are used besides those of objects.
    """

    crops_per_image: int = 10
    patches_per_crop: int = 36
    frozen_stem_steps: int = 0
    whole_images: bool = False

    def __post_init__(self) -> None:
        for name in ('crops_per_image', 'patches_per_crop'):
            if getattr(self, name) < 1:
                raise DataError(f'{name} must be 1 or more, got {getattr(self, name)}')


def crop_embeddings(visual: VisionTransformer, batch: CropBatch, images: Tensor, patches: int) -> Tensor:
    """Embed crops as CLIP does: CLS attends to patches of the crop, and to nothing else.

    Args:
        visual: An open_clip ViT.
        batch: The crops.
        images: `(B, 3, S, S)` normalised images.
        patches: Patches kept of each crop; smaller crops show some of theirs twice.

    Returns:
        `(n, D)` float32 unit rows.
    """
    embedded = visual.conv1(images)
    rows, columns = embedded.shape[-2:]
    tokens = embedded.flatten(2).transpose(1, 2) + visual.positional_embedding[1:]  # (B, P, width)
    chosen = crop_patches(batch.boxes, batch.order, rows, columns, patches)
    kept = tokens[batch.image_index[:, None], chosen]  # (n, T, width)
    cls_token = visual.class_embedding + visual.positional_embedding[0]
    x = torch.cat([cls_token.expand(len(kept), 1, -1).to(kept.dtype), kept], 1)
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks:
        x = clip_block(block, x)
    return F.normalize((visual.ln_post(x[:, 0]) @ visual.proj).float(), dim=-1)


def crop_patches(boxes: Tensor, order: Tensor, rows: int, columns: int, count: int) -> Tensor:
    """Return `(n, count)` patches of a grid that lie in boxes, at random; all of a small box before any again.

    Args:
        boxes: `(n, 4)` boxes (x0, y0, x1, y1) as fractions.
        order: `(n, rows * columns)` random numbers in [0, 1).
        rows: Rows of the grid.
        columns: Columns of the grid.
        count: Number of patches wanted.
    """
    x = torch.arange(columns, device=boxes.device)
    y = torch.arange(rows, device=boxes.device)
    # A patch counts when the box reaches over it; a box on a border or thinner than a patch has at least one.
    x0 = (boxes[:, 0] * columns).floor().clamp(max=columns - 1)
    y0 = (boxes[:, 1] * rows).floor().clamp(max=rows - 1)
    in_x = (x >= x0[:, None]) & ((x < (boxes[:, 2] * columns)[:, None]) | (x == x0[:, None]))
    in_y = (y >= y0[:, None]) & ((y < (boxes[:, 3] * rows)[:, None]) | (y == y0[:, None]))
    inside = (in_y[:, :, None] & in_x[:, None, :]).flatten(1)
    ranked = (inside + order).argsort(1, descending=True)
    turn = torch.arange(count, device=boxes.device) % inside.sum(1, keepdim=True)
    return ranked.gather(1, turn)


def _encoded(encoder: TextEncoder, sentences: Sequence[str], path: Path) -> Tensor:
    """Encode sentences, or read them from `path` where an earlier run of the same data left them."""
    digest = hashlib.sha256('\n'.join(sentences).encode()).hexdigest()
    if path.is_file():
        saved = load_tensors(path)
        if saved['sha256'] == digest:
            embeddings: Tensor = saved['embeddings']
            return embeddings
    _LOG.info('encoding %d captions', len(sentences))
    embeddings = encoder.encode(sentences)
    if PartialState().is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {'sha256': digest, 'embeddings': embeddings})
    return embeddings


def train_clip(
    network: SegmentationNetwork,
    encoder: TextEncoder,
    vocabulary: SampledVocabulary,
    dataset: PanopticDataset,
    captions: Path,
    validation: PanopticDataset,
    phases: list[Phase],
    folder: Path,
    seed: int,
    options: ClipOptions,
    run: RunSettings,
) -> None:
    """Train the image tower's CLIP in place; its FISA parts stay as they are."""
    tower = network.trainable_tower
    visual = tower.visual
    patches = visual.grid_size[0] * visual.grid_size[1]
    entries = {
        image: [caption for caption in entry if options.whole_images or caption.box_xyxy is not None]
        for image, entry in read_captions(captions).items()
    }
    crops = CaptionedCrops(dataset, entries, options.crops_per_image, patches)
    sentences = _encoded(encoder, [*crops.sentences, *DISTRACTORS], folder / 'sentences.pt')
    network.requires_grad_(False)
    visual.requires_grad_(True)
    network.head.logit_scale.requires_grad_(True)
    module = nn.ModuleDict({'tower': tower, 'head': network.head})
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    stem = visual.conv1.stem
    validation_batch = images_beside_steps(phases, run, Processes().world_size)

    def loss(batch: CropBatch, step: int) -> dict[str, Term]:
        # A frozen stem keeps the statistics of its norms too, as the generator's training left them.
        stem.requires_grad_(step >= options.frozen_stem_steps)
        tower.train(step >= options.frozen_stem_steps)
        images = ((batch.images - tower.mean) / tower.std).contiguous(memory_format=torch.channels_last)
        embeddings = crop_embeddings(visual, batch, images, options.patches_per_crop)
        scale = network.head.logit_scale.exp().clamp(max=_MAX_LOGIT_SCALE)
        with torch.autocast(images.device.type, enabled=False):
            logits = scale * embeddings @ sentences.to(embeddings.device).T
        value = F.cross_entropy(logits, batch.captions, reduction='sum')
        right = (logits.argmax(1) == batch.captions).sum()
        return {'loss': Term(value, len(logits), 1.0), 'accuracy': Term(right, len(logits), 0.0)}

    def validate() -> dict[str, float]:
        return mask_accuracy(
            network, vocabulary, validation, visual.image_size[0], STRETCH, (), VALIDATION_IMAGES, validation_batch
        )

    train(
        module,
        parameters,
        phases,
        lambda phase, step, part, parts: crops.batches(
            phase.size, phase.batch_size, phase_seed(seed, phases, phase), step, part=part, parts=parts
        ),
        loss,
        folder,
        validate=validate,
        run=run,
    )
    tower.start_from_clip()

"""Frozen CLIP with mask pooling: the classifier that needs no training, and the baseline of FISA.

Dense features of a convolutional CLIP, which keep their place, are averaged under each mask and go through CLIP's own
head (Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP", 2023:
FC-CLIP). Three things differ from it:

- FC-CLIP scales mask logits to the grid of the features and averages the cells where they are positive. At stride 32
  that looks at 2 x 2 of the 8 x 8 logits of a cell, so that a small mask often gets no cell at all and its average is
  zero. Here a cell counts by the share of it that the mask covers: the same for masks that end at the edges of cells,
  and never nothing.
- FC-CLIP blends in the classes of its own generator, which knows those of its training only. Here CLIP stands alone.
- Both leave void to the generator: no embedding of void competes with the words.
"""

from open_clip.timm_model import TimmModel
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.mask_coverage import CLIP_MEAN, CLIP_STD, mask_coverage, pooling_weights

# Where the training of CLIP ends, as it limits its factor on cosines (Radford et al., 2021). Less would not do: of 133
# words, one that fits by a cosine of 0.1 more than all others has a probability of 0.99 with it and 0.05 with 20.
CLIP_LOGIT_SCALE = 100.0


class PooledImageTower(nn.Module):
    """The ConvNeXt image tower of an open_clip model, pooled under masks; words have no part in it.

    Args:
        visual: The image tower.
        embedding_dim: Length D of its embeddings.

    Raises:
        ManifestError: It is no ConvNeXt of timm.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, visual: nn.Module, embedding_dim: int) -> None:
        super().__init__()
        if not isinstance(visual, TimmModel) or not hasattr(getattr(visual.trunk, 'head', None), 'norm'):
            raise ManifestError(f'the classifier must be a ConvNeXt of open_clip, got {type(visual).__name__}')
        self.visual = visual
        self.embedding_dim = embedding_dim
        self.register_buffer('mean', torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, mask_logits: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Embed the regions under masks; arguments and result are those of `FisaImageTower.forward`."""
        features = self.visual.trunk.forward_features((image - self.mean) / self.std)  # (B, C, rows, columns)
        weights = pooling_weights(mask_coverage(mask_logits, features.shape[-2], features.shape[-1]))
        return self._embedded(weights @ features.flatten(2).transpose(1, 2).to(weights.dtype))

    def image_embedding(self, image: Tensor) -> Tensor:
        """Return CLIP's own embedding `(B, D)`, float32 unit rows, of `(B, 3, S, S)` rgb in [0, 1]."""
        return F.normalize(self.visual((image - self.mean) / self.std).float(), dim=-1)

    def _embedded(self, pooled: Tensor) -> Tensor:
        """Send `(B, N, C)` averages through CLIP's normalisation and projection."""
        head = self.visual.trunk.head
        normed = head.norm(pooled.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        return F.normalize(self.visual.head(head.pre_logits(normed)).float(), dim=-1)

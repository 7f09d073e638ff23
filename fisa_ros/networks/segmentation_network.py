"""The whole network of a model, in the two parts that are exported: encoder and head."""

from typing import NamedTuple

from torch import Tensor, nn

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.image_tower import FisaImageTower
from fisa_ros.networks.mask_coverage import area_matrix
from fisa_ros.networks.mask_generator import MaskProposals
from fisa_ros.networks.panoptic_head import PanopticHead, PanopticOutput, ThresholdTensors
from fisa_ros.networks.pooled_tower import PooledImageTower


class EncodedImage(NamedTuple):
    """Output of the encoder, whose shape does not depend on the vocabulary.

    Attributes:
        mask_logits: `(N, h, w)`.
        mask_embeddings: `(N, D)` unit rows.
        objectness: `(N,)` in [0, 1].
    """

    mask_logits: Tensor
    mask_embeddings: Tensor
    objectness: Tensor


class SegmentationNetwork(nn.Module):
    """Mask generator, FISA image tower and panoptic head.

    Args:
        generator: A mask generator; it is frozen.
        tower: The classifier's image tower, FISA's or the pooled one.
        head: The panoptic head.
    """

    def __init__(self, generator: nn.Module, tower: FisaImageTower | PooledImageTower, head: PanopticHead) -> None:
        super().__init__()
        self.generator = generator.requires_grad_(False)
        self.tower = tower
        self.head = head

    def train(self, mode: bool = True) -> 'SegmentationNetwork':
        """Switch training on or off; the frozen generator always stays in evaluation mode."""
        super().train(mode)
        self.generator.eval()
        return self

    @property
    def trainable_tower(self) -> FisaImageTower:
        """The tower, where it is FISA's.

        Raises:
            ManifestError: It is the pooled one, which has nothing to train.
        """
        if not isinstance(self.tower, FisaImageTower):
            raise ManifestError('only the tower of FISA can be trained, this classifier is pooled')
        return self.tower

    def encode(self, image: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> EncodedImage:
        """Encode one image.

        Args:
            image: `(1, 3, H, W)` rgb in [0, 1].
            semantic_tokens: `(M, D)` unit rows, padded.
            token_mask: `(M,)` bool.
        """
        proposals: MaskProposals = self.generator(image)
        embeddings = self.tower(self.at_tower_size(image), proposals.mask_logits, semantic_tokens, token_mask)
        return EncodedImage(proposals.mask_logits[0], embeddings[0], proposals.objectness[0])

    def forward(
        self,
        image: Tensor,
        semantic_tokens: Tensor,
        token_mask: Tensor,
        text_embeddings: Tensor,
        synonym_mask: Tensor,
        is_thing: Tensor,
        thresholds: ThresholdTensors,
    ) -> PanopticOutput:
        """Segment one image; see `encode` and `PanopticHead.forward`."""
        encoded = self.encode(image, semantic_tokens, token_mask)
        output: PanopticOutput = self.head(*encoded, text_embeddings, synonym_mask, is_thing, thresholds)
        return output

    def at_tower_size(self, image: Tensor) -> Tensor:
        """Scale images `(B, 3, H, W)` to the size that the tower takes, antialiased."""
        height, width = self.tower.visual.image_size
        if image.shape[-2:] == (height, width):
            return image
        # Antialiased resizing as two matrix products, which every runtime can do.
        vertical = area_matrix(image.shape[-2], height, image.device).to(image.dtype)
        horizontal = area_matrix(image.shape[-1], width, image.device).to(image.dtype)
        return vertical @ image @ horizontal.T

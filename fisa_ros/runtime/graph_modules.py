"""Encoder and head as modules with the inputs and outputs of their graphs."""

from typing import Protocol

from torch import Tensor, nn

from fisa_ros.networks.panoptic_head import PanopticHead, ThresholdTensors
from fisa_ros.networks.segmentation_network import EncodedImage


class Encoder(Protocol):
    """A network, of any precision inside."""

    def encode(self, image: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> EncodedImage:
        """See `SegmentationNetwork.encode`."""
        ...


class EncoderGraph(nn.Module):
    """Image to masks and their embeddings; normalisation, generator and image tower."""

    def __init__(self, network: Encoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode `(H, W, 3)` uint8 rgb; see `SegmentationNetwork.encode`."""
        # TensorRT takes bytes as an input, and then only to cast them.
        pixels = image.float().permute(2, 0, 1)[None] / 255
        encoded = self.network.encode(pixels, semantic_tokens, token_mask)
        return encoded.mask_logits, encoded.mask_embeddings, encoded.objectness


class HeadGraph(nn.Module):
    """Masks, their embeddings and words to one panoptic map; classifier and merge."""

    def __init__(self, head: PanopticHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self,
        mask_logits: Tensor,
        mask_embeddings: Tensor,
        objectness: Tensor,
        text_embeddings: Tensor,
        synonym_mask: Tensor,
        is_thing: Tensor,
        thresholds: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Segment; `thresholds` are the `(6,)` of `Thresholds.array`. See `PanopticHead.forward`."""
        output = self.head(
            mask_logits, mask_embeddings, objectness, text_embeddings, synonym_mask, is_thing,
            ThresholdTensors.of(thresholds),
        )  # fmt: skip
        return output.query_map, output.class_index, output.score

"""EoMT of the `transformers` library as a class-agnostic mask generator."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EomtConfig, EomtForUniversalSegmentation

from fisa_ros.networks.mask_generator import IMAGENET_MEAN, IMAGENET_STD, MaskProposals


class EomtMaskGenerator(nn.Module):
    """Drops the closed-vocabulary classes of EoMT and keeps its masks and P(no object).

    Args:
        config: Fields of `EomtConfig`; `image_size` is the edge of the square input in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.model = EomtForUniversalSegmentation(EomtConfig(**config))
        # The masked attention of training is annealed to nothing: at inference EoMT is a plain ViT. Numbers instead of
        # a tensor, as an exporter cannot branch on what a tensor holds.
        masked: Any = (0.0,) * self.model.config.num_blocks
        del self.model.attn_mask_probs
        self.model.attn_mask_probs = masked
        # Its loss, and the weights of that, take no part either.
        del self.model.criterion
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> MaskProposals:
        """Propose masks at 1/4 of the resolution for `(B, 3, H, W)` float rgb in [0, 1]."""
        output = self.model(pixel_values=(image - self.mean) / self.std)
        # A slice, see the lint of exported graphs.
        no_object = output.class_queries_logits.softmax(-1)[..., -1:].squeeze(-1)
        return MaskProposals(output.masks_queries_logits, 1 - no_object)

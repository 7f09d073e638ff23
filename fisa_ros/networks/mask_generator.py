"""What a mask generator does, whatever its architecture."""

from typing import NamedTuple, Protocol

from torch import Tensor

# Of the inputs on which the backbones of generators were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class MaskProposals(NamedTuple):
    """Class-agnostic masks of a batch of images.

    Attributes:
        mask_logits: `(B, N, h, w)` before the sigmoid.
        objectness: `(B, N)` in [0, 1], 1 - P(no object).
    """

    mask_logits: Tensor
    objectness: Tensor


class MaskGenerator(Protocol):
    """A frozen network that proposes N masks; its own normalisation is inside."""

    def __call__(self, image: Tensor) -> MaskProposals:
        """Propose masks for `(B, 3, H, W)` float rgb in [0, 1]."""
        ...

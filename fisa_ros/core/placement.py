"""Where an image lies in the input of a network."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

ResizeKind = Literal['stretch', 'pad']
RESIZE_KINDS: tuple[ResizeKind, ...] = get_args(ResizeKind)
BLACK_RGB = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Placement:
    """One image in the input of a network: scaled to `content_hw`, at the top left, the rest padding.

    A map of the network has a grid of cells over the whole input; pixels and cells are compared by their centres.

    Attributes:
        image_hw: Size of the image.
        content_hw: Size that it has in the input; each side at least 1.
        input_hw: Size of the input.
        pad_rgb: Colour of the padding.
    """

    image_hw: tuple[int, int]
    content_hw: tuple[int, int]
    input_hw: tuple[int, int]
    pad_rgb: tuple[int, int, int] = BLACK_RGB

    @classmethod
    def shown_of(cls, shown_hw: tuple[float, float], input_hw: tuple[int, int]) -> 'Placement':
        """Return that of an image at the size it has in an input of which it takes such a share, see `shown_hw`."""
        content_hw = round(shown_hw[0] * input_hw[0]), round(shown_hw[1] * input_hw[1])
        return cls(content_hw, content_hw, input_hw)

    @property
    def is_whole(self) -> bool:
        """Whether there is no padding."""
        return self.content_hw == self.input_hw

    @property
    def shown_hw(self) -> tuple[float, float]:
        """Share of the rows and of the columns of the input that hold the image."""
        return self.content_hw[0] / self.input_hw[0], self.content_hw[1] / self.input_hw[1]

    @property
    def transposed(self) -> 'Placement':
        """That of the transposed image in the transposed input."""
        image, content, size = self.image_hw[::-1], self.content_hw[::-1], self.input_hw[::-1]
        return Placement(image, content, size, self.pad_rgb)

    def content_cells(self, axis: int, num_cells: int) -> float:
        """Return how many of the cells along an axis (0 down, 1 right) the image takes, a part of one as a fraction."""
        return num_cells * self.content_hw[axis] / self.input_hw[axis]

    def shown_cells(self, axis: int, num_cells: int) -> int:
        """Return how many of the cells along an axis show anything of the image."""
        return -(-num_cells * self.content_hw[axis] // self.input_hw[axis])

    def shown[T: np.generic](self, maps: NDArray[T]) -> NDArray[T]:
        """Return the cells of maps `(..., h, w)` that show anything of the image, as a view."""
        rows, columns = (self.shown_cells(axis, maps.shape[axis - 2]) for axis in (0, 1))
        return maps[..., :rows, :columns]

    def nearest_cells(self, axis: int, num_cells: int) -> NDArray[np.int64]:
        """Return, for each pixel of the image along an axis, the cell in which its centre lies."""
        size, content, whole = self.image_hw[axis], self.content_hw[axis], self.input_hw[axis]
        return (2 * np.arange(size, dtype=np.int64) + 1) * (num_cells * content) // (2 * size * whole)

    def mirrored_cells(self, num_cells: int) -> NDArray[np.int64]:
        """Return, for each column of cells, the one to take it from for the mirror image, whose padding stays right."""
        columns = np.arange(num_cells)
        mirrored = np.floor(self.content_cells(1, num_cells) - (columns + 0.5)).astype(np.int64)
        return np.where(columns < self.shown_cells(1, num_cells), mirrored.clip(0), columns)


@dataclass(frozen=True, slots=True)
class Resize:
    """How images come to the size of a network's input.

    `pad` keeps the proportions as the public checkpoints do with theirs: the image is scaled until one side fills the
    input, sides rounded to whole pixels, and put at the top left; below and right of it is padding. For EoMT that is
    black, which is 0 before the colours are normalised (`resize_and_pad_imgs_instance_panoptic` in
    `training/lightning_module.py` of tue-mps/eomt; `EomtImageProcessor` of transformers, of which the published
    `preprocessor_config.json` have `do_pad` and equal edges). Mask2Former pads with 0 after that, which is the mean
    colour (`ImageList.from_tensors` in `mask2former/maskformer_model.py` of facebookresearch/Mask2Former). Sides are
    rounded as tue-mps/eomt does it; transformers truncates, which is a pixel less for some sizes. Both projects cut the
    padding off before masks compete; here no mask holds anything of it.

    Attributes:
        kind: `stretch` fills the input whatever the proportions are, `pad` keeps them.
        pad_rgb: Colour of the padding.
    """

    kind: ResizeKind = 'stretch'
    pad_rgb: tuple[int, int, int] = BLACK_RGB

    def place(self, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> Placement:
        """Return where an image of a size lies in an input of a size."""
        if self.kind == 'stretch':
            return Placement(image_hw, input_hw, input_hw)
        (height, width), (rows, columns) = image_hw, input_hw
        # The side that fills the input is exact, the other one rounded, a half up.
        if rows * width <= columns * height:
            content_hw = rows, max(1, (2 * width * rows + height) // (2 * height))
        else:
            content_hw = max(1, (2 * height * columns + width) // (2 * width)), columns
        return Placement(image_hw, content_hw, input_hw, self.pad_rgb)


STRETCH = Resize()

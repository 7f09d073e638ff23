"""What masks with scores say before they are merged into segments: the readings that published tables have.

Semantic segmentation gives each pixel its best class, instance segmentation ranks masks that may overlap (Cheng et al.,
Mask2Former, 2022). Neither knows the thresholds of panoptic segments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.placement import Placement
from fisa_ros.evaluation.mask_ap import MAX_INSTANCES, Instance, encode_mask
from fisa_ros.pipeline.image_scaling import image_values

_SMALLEST_LOGIT = -80.0
_TILE_CELLS = 8
# Of sums in float32: of one number, and of as many as there are masks.
_ROUNDING = 2.0**-24
_SLACK = 1e-4


@dataclass(frozen=True, slots=True)
class ScoredMasks:
    """Masks of one image, each with a score for every class.

    Attributes:
        mask_logits: `(N, h, w)` float32, before the sigmoid.
        scores: `(N, K)` float32 in [0, 1].
        placement: Where the image is in what the masks are of.
    """

    mask_logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    placement: Placement

    def class_map(self) -> NDArray[np.intp]:
        """Return `(H, W)` rows of the best class of each pixel: the sum over masks of score x probability is largest.

        It is -1 where there are no masks at all. Masks are scaled before the sigmoid, from their cells to the pixels of
        the image at once, as tiles need it; `instances` goes by way of the input of the network, as EoMT does.

        The image is worked off in tiles. Between the smallest and the largest logit of each mask in a tile lie all its
        pixels, which tells the classes that can be best somewhere in it; only those are summed up, and where there is
        only one, nothing is. Masks that together add less than the rounding of a sum are left out.
        """
        size_hw = self.placement.image_hw
        if not len(self.mask_logits):
            return np.full(size_hw, -1, np.intp)
        spans_y, spans_x = (_spans(self.placement, axis, self.mask_logits.shape[axis + 1]) for axis in (0, 1))
        low, high = (
            _probability(
                np.array(
                    [[extreme(self.mask_logits[:, ys.cells, xs.cells], (1, 2)) for xs in spans_x] for ys in spans_y]
                )
            )
            for extreme in (np.min, np.max)
        )
        scores = self.scores.astype(np.float64)
        least, most = low @ scores, high @ scores  # (tiles down, tiles across, K)
        rows = np.empty(size_hw, np.intp)
        for row, ys in enumerate(spans_y):
            for column, xs in enumerate(spans_x):
                sure = least[row, column].max()
                # Written so that what is no number is kept.
                classes = np.flatnonzero(~(most[row, column] < sure * (1 - _SLACK)))
                if len(classes) == 1:
                    rows[ys.pixels, xs.pixels] = classes[0]
                    continue
                masks = _that_matter(high[row, column] * scores[:, classes].max(axis=1), sure * _ROUNDING)
                cells = self.mask_logits[masks, ys.cells, xs.cells].transpose(1, 2, 0)
                scaled = _between(_between(cells, ys).swapaxes(0, 1), xs)
                sums = _probability(scaled).reshape(-1, len(masks)) @ self.scores[np.ix_(masks, classes)]
                rows[ys.pixels, xs.pixels] = classes[sums.argmax(axis=1)].reshape(scaled.shape[:2]).T
        return rows

    def instances(self, class_of: Mapping[int, int]) -> list[Instance]:
        """Return the surest masks, each with the score of a class x its mean probability where it is.

        Args:
            class_of: The class of each row that counts; others take part in the choice of the surest, and are left out.
        """
        surest = np.argsort(-self.scores, axis=None, kind='stable')[:MAX_INSTANCES]
        chosen = [(int(mask), int(row)) for mask, row in zip(*np.unravel_index(surest, self.scores.shape), strict=True)]
        codes: dict[int, tuple[object, float]] = {}
        instances = []
        for mask, row in chosen:
            if row not in class_of:
                continue
            if mask not in codes:
                logits = self.mask_logits[mask]
                shown = self.placement.shown(logits)
                is_in = shown > 0
                sureness = float((1 / (1 + np.exp(-shown[is_in]))).mean()) if is_in.any() else 0.0
                # Transposed, as run lengths go down the columns.
                scaled = image_values(logits.T, self.placement.transposed)
                codes[mask] = encode_mask((scaled > 0).T), sureness
            code, sureness = codes[mask]
            if sureness:
                instances.append(Instance(class_of[row], code, float(self.scores[mask, row]) * sureness))
        return instances


def class_scores(
    probabilities: NDArray[np.float32], objectness: NDArray[np.float32], objectness_trust: float
) -> NDArray[np.float32]:
    """Return `(N, K)` scores in [0, 1] as the head of the model makes them, but of all classes and without its void.

    Args:
        probabilities: `(N, K + 1)`, the last column for void.
        objectness: `(N,)` in [0, 1].
        objectness_trust: See `Thresholds`.
    """
    classes = probabilities[:, :-1]
    best = classes.max(axis=1, initial=0.0)
    is_object = 1 - (1 - objectness) * (1 - objectness_trust * best)
    return np.asarray(classes * is_object[:, None], np.float32)


def _neighbours(
    placement: Placement, axis: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each pixel, the cells before and after its centre and how far it is from the first one."""
    content, scaled_size = placement.content_cells(axis, size), placement.image_hw[axis]
    position = np.clip((np.arange(scaled_size) + 0.5) * content / scaled_size - 0.5, 0, size - 1)
    before = position.astype(np.intp)
    return before, np.minimum(before + 1, size - 1), (position - before).astype(np.float32)


class _Span(NamedTuple):
    """A stretch of pixels along one axis, and the cells of masks that it lies between.

    Attributes:
        pixels: The stretch.
        cells: The cells.
        before: For each pixel, which of the cells comes before its centre.
        after: Which one comes after it.
        share: How far it is from the first one.
    """

    pixels: slice
    cells: slice
    before: NDArray[np.intp]
    after: NDArray[np.intp]
    share: NDArray[np.float32]


def _spans(placement: Placement, axis: int, size: int) -> list[_Span]:
    """Cut an axis into stretches of `_TILE_CELLS` cells; the arguments are those of `_neighbours`."""
    before, after, share = _neighbours(placement, axis, size)
    starts = [0, *(np.flatnonzero(np.diff(before // _TILE_CELLS)) + 1).tolist()]
    spans = []
    for start, end in zip(starts, [*starts[1:], len(before)], strict=True):
        pixels, first = slice(start, end), int(before[start])
        cells = slice(first, int(after[end - 1]) + 1)
        spans.append(_Span(pixels, cells, before[pixels] - first, after[pixels] - first, share[pixels, None, None]))
    return spans


def _between(cells: NDArray[np.float32], span: _Span) -> NDArray[np.float32]:
    """Interpolate `(n, ...)` cells along the first axis."""
    start = cells[span.before]
    step = cells[span.after]
    step -= start
    step *= span.share
    step += start
    return step


def _probability[T: np.floating](logits: NDArray[T]) -> NDArray[T]:
    """Return the sigmoid, made in place."""
    np.maximum(logits, _SMALLEST_LOGIT, out=logits)
    np.negative(logits, out=logits)
    np.exp(logits, out=logits)
    logits += 1
    return np.reciprocal(logits, out=logits)


def _that_matter(largest: NDArray[np.float64], negligible: float) -> NDArray[np.intp]:
    """Return the masks that are left when those are left out that together add less than what is negligible.

    Args:
        largest: `(N,)`, what each mask adds to a sum at most.
        negligible: The bound.
    """
    order = np.argsort(largest)
    return np.sort(order[~(np.cumsum(largest[order]) < negligible)])

"""What masks with scores say before they are merged into segments: the readings that published tables have.

Semantic segmentation gives each pixel its best class, instance segmentation ranks masks that may overlap (Cheng et al.,
Mask2Former, 2022). Neither knows the thresholds of panoptic segments.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.placement import Placement
from fisa_ros.evaluation.mask_ap import MAX_INSTANCES, Instance, encode_mask
from fisa_ros.pipeline.image_scaling import image_values

_SMALLEST_LOGIT = -80.0


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

        It is -1 where there are no masks at all.

        Masks are scaled before the sigmoid, one line of the image at a time, so the scores of all classes are never in
        memory at once.
        """
        size_hw = self.placement.image_hw
        if not len(self.mask_logits):
            return np.full(size_hw, -1, np.intp)
        logits = np.ascontiguousarray(self.mask_logits.transpose(1, 2, 0))
        above, below, down = _neighbours(self.placement, 0, logits.shape[0])
        left, right, across = _neighbours(self.placement, 1, logits.shape[1])
        rows = np.empty(size_hw, np.intp)
        for y in range(size_hw[0]):
            line = logits[above[y]] + down[y] * (logits[below[y]] - logits[above[y]])
            start = line[left]
            scaled = start + across[:, None] * (line[right] - start)
            probability = 1 / (1 + np.exp(-np.maximum(scaled, _SMALLEST_LOGIT)))
            rows[y] = (probability @ self.scores).argmax(axis=1)
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

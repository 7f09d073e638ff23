"""Mask average precision (AP) of things, by the rules and the library of COCO."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
import io
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_coding
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fisa_ros.evaluation.means import mean_or_nan

MAX_INSTANCES = 100
"""Of each class of an image, the surest so many count."""
_IOU_50 = 0
_AREAS = [[0, 1e10]]


@dataclass(frozen=True, slots=True)
class Instance:
    """A predicted or a true mask of an image.

    Attributes:
        class_id: Its class.
        code: Its run lengths, see `encode_mask`.
        score: How sure it is, any number; of no meaning for a true one.
        is_crowd: Whether it is a true group that is not told apart.
    """

    class_id: int
    code: Any
    score: float = 1.0
    is_crowd: bool = False


@dataclass(frozen=True, slots=True)
class MaskApResult:
    """What `MaskAp` measured, as fractions; NaN where there is no true instance.

    Attributes:
        ap: Mean over the classes and the IoU thresholds 0.5, 0.55, ... 0.95.
        ap50: Mean over the classes at IoU 0.5.
        per_class: AP by class id; a class without true instances is left out.
    """

    ap: float
    ap50: float
    per_class: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Matches:
    """What became of the D predicted and T true instances of one image, at each IoU threshold; the masks are gone."""

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    is_matched: NDArray[np.bool_]
    is_ignored: NDArray[np.bool_]
    true_class_ids: NDArray[np.int64]
    is_true_ignored: NDArray[np.bool_]


class MaskAp:
    """Collects instances and tells their AP; which of them match is kept, their masks are not."""

    def __init__(self, class_ids: Collection[int]) -> None:
        """Count these classes."""
        self._class_ids = sorted(set(class_ids))
        self._images: list[_Matches] = []

    def update(self, predicted: Sequence[Instance], truth: Sequence[Instance]) -> Self:
        """Add one image, whose instances may overlap."""
        class_ids = sorted({entry.class_id for entry in (*predicted, *truth)})
        if not class_ids:
            return self
        evaluation = _evaluation(class_ids, MAX_INSTANCES, _index(truth, class_ids), _index(predicted, class_ids))
        # The library tells its progress on stdout.
        with redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        by_class = evaluation.evalImgs
        self._images.append(
            _Matches(
                class_ids=np.repeat(class_ids, [len(entry['dtScores']) for entry in by_class]),
                scores=np.concatenate([entry['dtScores'] for entry in by_class]),
                is_matched=np.concatenate([entry['dtMatches'] > 0 for entry in by_class], axis=1),
                is_ignored=np.concatenate([entry['dtIgnore'] for entry in by_class], axis=1).astype(np.bool_),
                true_class_ids=np.repeat(class_ids, [len(entry['gtIgnore']) for entry in by_class]),
                is_true_ignored=np.concatenate([entry['gtIgnore'] for entry in by_class]).astype(np.bool_),
            )
        )
        return self

    def compute(self) -> MaskApResult:
        """Return the numbers over all images so far."""
        if not self._images:
            return MaskApResult(float('nan'), float('nan'), {})
        matches = _Matches(
            *(
                np.concatenate([getattr(image, field.name) for image in self._images], axis=-1)
                for field in fields(_Matches)
            )
        )
        precision_of = {
            class_id: _precision(matches, class_id)
            for class_id in self._class_ids
            if not matches.is_true_ignored[matches.true_class_ids == class_id].all()
        }
        per_class = {class_id: float(precision.mean()) for class_id, precision in precision_of.items()}
        at_50 = [float(precision[_IOU_50].mean()) for precision in precision_of.values()]
        return MaskApResult(mean_or_nan(list(per_class.values())), mean_or_nan(at_50), per_class)


def encode_mask(mask: NDArray[np.bool_]) -> Any:
    """Return the run lengths of an `(H, W)` bool mask as the library takes them; quicker where columns lie together."""
    return mask_coding.encode(np.asfortranarray(mask).view(np.uint8))


def instances_of(id_map: NDArray[np.integer], entries: Iterable[tuple[int, int, float, bool]]) -> list[Instance]:
    """Return the segments of a map as instances.

    Args:
        id_map: `(H, W)` segment ids, 1 or more.
        entries: Id, class, score and whether a crowd of each; other values of the map are not counted.
    """
    by_columns = np.asfortranarray(id_map)
    return [
        Instance(class_id, encode_mask(by_columns == segment_id), score, is_crowd)
        for segment_id, class_id, score, is_crowd in entries
    ]


def _precision(matches: _Matches, class_id: int) -> NDArray[np.float64]:
    """Return the precision of a class, which has true instances, by IoU threshold and by 101 recalls."""
    is_found = matches.class_ids == class_id
    # To the library, all images are one: the surest of each were chosen before.
    evaluation = _evaluation([class_id], max(1, int(is_found.sum())))
    evaluation.evalImgs = [
        {
            'dtScores': matches.scores[is_found],
            'dtMatches': matches.is_matched[:, is_found],
            'dtIgnore': matches.is_ignored[:, is_found],
            'gtIgnore': matches.is_true_ignored[matches.true_class_ids == class_id],
        }
    ]
    evaluation._paramsEval = evaluation.params
    with redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval['precision'][:, :, 0, 0, 0]
    return precision


def _evaluation(class_ids: list[int], max_instances: int, truth: Any = None, predicted: Any = None) -> Any:
    evaluation: Any = COCOeval(truth, predicted, 'segm')
    parameters = evaluation.params
    parameters.imgIds, parameters.catIds, parameters.maxDets = [1], class_ids, [max_instances]
    parameters.areaRng, parameters.areaRngLbl = _AREAS, ['all']
    return evaluation


def _index(instances: Sequence[Instance], class_ids: Sequence[int]) -> Any:
    index: Any = COCO()
    index.dataset = {
        'images': [{'id': 1, 'height': 0, 'width': 0}],
        'categories': [{'id': class_id} for class_id in class_ids],
        'annotations': [
            {
                'id': number,
                'image_id': 1,
                'category_id': entry.class_id,
                'segmentation': entry.code,
                'area': float(mask_coding.area(entry.code)),
                'score': entry.score,
                'iscrowd': int(entry.is_crowd),
            }
            for number, entry in enumerate(instances, start=1)
        ],
    }
    with redirect_stdout(io.StringIO()):
        index.createIndex()
    return index

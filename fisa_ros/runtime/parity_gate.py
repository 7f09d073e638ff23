"""Whether graphs compute what they were exported to compute, by the reference outputs stored beside them.

TensorRT has built engines for networks of this kind that ran without a complaint and gave wrong masks: DINO and SAM
encoders in half precision and even in float32. So no engine is believed before it has passed here.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import BuildCancelledError, GraphsError
from fisa_ros.runtime.graph_files import ENCODER_INPUTS, ENCODER_OUTPUTS, HEAD_INPUTS, HEAD_OUTPUTS

# Raised whenever the same outputs may get another verdict.
GATE_VERSION = 3
# A patch whose coverage is next to `MIN_COVERAGE` is seen or hidden: rounding, and be it that of float32, turns the
# embedding of a small mask now and then. A wrong engine turns most of them.
_TURNED_SHARE = 0.01
_VOID = -1
# Numbers of words at which the head is judged besides that of the reference, and on how many frames.
_MANY_WORDS = 1000
_WORDS_FRAMES = 4
# Words that are half as near as those they are copied from, so that these still win.
_COPY_LENGTH = 0.5
# Logits that are rounded to ten bits change a score by a few per cent.
_SCORE_TOLERANCE = 0.2

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What outputs must reach against the reference outputs, each in [0, 1].

    Attributes:
        cosine: Of two embeddings of one mask, for 99 % of the masks.
        label_agreement: Mean share of pixels with the same label.
        mask_iou: Mean IoU of two of one mask.
    """

    cosine: float = 0.999
    label_agreement: float = 0.99
    mask_iou: float = 0.98


@dataclass(frozen=True, slots=True)
class Check:
    """One number of a verdict.

    Attributes:
        name: What was measured.
        value: What came out.
        limit: What it had to reach.
        is_met: Whether it did.
    """

    name: str
    value: float
    limit: float
    is_met: bool


@dataclass(frozen=True, slots=True)
class ParityVerdict:
    """What the gate says.

    Attributes:
        passed: Whether every check is met.
        checks: The numbers.
        worst_frame: Index of the reference frame whose labels agree least.
        num_frames: Number of frames compared.
        num_masks: Number of masks compared.
        broken_outputs: Number of outputs that hold NaN, infinities or numbers of masks that do not exist.
    """

    passed: bool
    checks: tuple[Check, ...]
    worst_frame: int
    num_frames: int
    num_masks: int
    broken_outputs: int

    def describe(self) -> str:
        """Say it in one line."""
        numbers = ', '.join(f'{check.name} {check.value:.5g} (at least {check.limit:g})' for check in self.checks)
        broken = f', {self.broken_outputs} outputs with NaN, Inf or unknown masks' if self.broken_outputs else ''
        return (
            f'parity {"passed" if self.passed else "failed"}: {numbers}{broken}; '
            f'{self.num_masks} masks of {self.num_frames} frames, worst frame {self.worst_frame}'
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> 'ParityVerdict':
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            checks = tuple(Check(**check) for check in document['checks'])
            return cls(**{**{name: document[name] for name in cls.__dataclass_fields__}, 'checks': checks})
        except (KeyError, TypeError) as error:
            raise ValueError(f'no verdict of the parity gate: {error!r}') from error


class ParityGate:
    """Compares encoder and head with their reference outputs.

    Args:
        reference: What `write_reference` stores: the inputs, once or, the image, for each of F frames, and the
            outputs of both graphs for each frame.
        limits: What must be reached; by default what half precision reaches.
        head: Takes the inputs of the head and returns its outputs in float32. With it graphs are judged at two more
            numbers of words, one and about a thousand, as kernels of an engine are chosen by sizes; without it not.

    Raises:
        GraphsError: Something is missing in it.
    """

    def __init__(
        self, reference: Arrays, limits: Limits | None = None, head: Callable[[Arrays], Arrays] | None = None
    ) -> None:
        missing = {*ENCODER_INPUTS, *HEAD_INPUTS, *HEAD_OUTPUTS} - set(reference)
        if missing or not len(reference['image']):
            lacks = ', '.join(sorted(missing)) or 'frames'
            raise GraphsError(f'the reference outputs of the graphs lack {lacks}: export the model anew')
        self._reference, self._limits, self._head = reference, limits or Limits(), head
        self.num_frames = len(reference['image'])

    @classmethod
    def open(
        cls, path: Path, limits: Limits | None = None, head: Callable[[Arrays], Arrays] | None = None
    ) -> 'ParityGate':
        """Read `reference.npz`.

        Raises:
            GraphsError: It is missing or damaged.
        """
        try:
            with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
                return cls(dict(archive), limits, head)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise GraphsError(f'{path} cannot be read: {error}; export the model anew') from error

    def judge(self, run: Callable[[Arrays], Arrays], is_cancelled: Callable[[], bool] = lambda: False) -> ParityVerdict:
        """Run all reference frames and compare.

        The cosine is that of mask embeddings; 99 % of the masks must reach it, and all of them where they are 100 or
        fewer. The masks that count are those whose reference score reaches the score threshold of the reference; all
        of them if none does, as with random weights. Other numbers of words are judged by what the float32 head makes
        of the same masks, so that the encoder has no part in it.

        Args:
            run: Takes the inputs of both graphs for one frame, without those that the encoder gives; returns the
                outputs of both by name: `mask_logits` `(N, h, w)`, `mask_embeddings` `(N, D)`, `objectness` `(N,)`,
                `query_map` `(hm, wm)`, `class_index` `(N,)` and `score` `(N,)`.
            is_cancelled: Asked before each frame.

        Raises:
            BuildCancelledError: `is_cancelled` said so.
        """
        score_threshold, mask_threshold = (float(entry) for entry in self._reference['thresholds'][:2])
        counts = self._reference['score'] >= score_threshold
        if not counts.any():
            counts = np.ones_like(counts)
        edge = _logit(mask_threshold)
        cosines, ious, agreements, broken = [], [], [], 0
        for frame in range(self.num_frames):
            expected = {name: self._reference[name][frame] for name in (*ENCODER_OUTPUTS, *HEAD_OUTPUTS)}
            _stop_if(is_cancelled)
            found = run(self.inputs(frame))
            broken += _count_broken(found, expected)
            found = {name: _repaired(found[name], expected[name]) for name in expected}
            rows = counts[frame]
            cosines += list(_cosine(found['mask_embeddings'][rows], expected['mask_embeddings'][rows]))
            ious += list(_mask_iou(found['mask_logits'][rows] > edge, expected['mask_logits'][rows] > edge))
            agreements.append(float((_labels(found) == _labels(expected)).mean()))
        checks = [
            _check('cosine', np.quantile(cosines, _TURNED_SHARE, method='lower'), self._limits.cosine),
            _check('label agreement', float(np.mean(agreements)), self._limits.label_agreement),
            _check('mask IoU', float(np.mean(ious)), self._limits.mask_iou),
        ]
        if self._head is not None and not broken and all(check.is_met for check in checks):
            for words in (self._one_word(), self._many_words()):
                agreement, more_broken = self._judge_words(run, self._head, words, is_cancelled)
                broken += more_broken
                name = f'label agreement at K={len(words["is_thing"])}'
                checks.append(_check(name, agreement, self._limits.label_agreement))
        return ParityVerdict(
            passed=not broken and all(check.is_met for check in checks),
            checks=tuple(checks),
            worst_frame=int(np.argmin(agreements)),
            num_frames=self.num_frames,
            num_masks=len(cosines),
            broken_outputs=broken,
        )

    def inputs(self, frame: int) -> dict[str, NDArray[Any]]:
        """Return the inputs of both graphs for one frame, without those that the encoder gives."""
        names = (*ENCODER_INPUTS, *HEAD_INPUTS)
        fixed = {name: self._reference[name] for name in names if name not in (*ENCODER_OUTPUTS, 'image')}
        return {'image': self._reference['image'][frame], **fixed}

    def _judge_words(
        self,
        run: Callable[[Arrays], Arrays],
        head: Callable[[Arrays], Arrays],
        words: Arrays,
        is_cancelled: Callable[[], bool],
    ) -> tuple[float, int]:
        """Return the mean share of pixels with the same label and a score that is alike, and what is broken."""
        agreements, broken = [], 0
        num_labels = len(self._reference['is_thing'])
        for frame in range(min(self.num_frames, _WORDS_FRAMES)):
            _stop_if(is_cancelled)
            inputs = {**self.inputs(frame), **words}
            # Many words share what one had, and without a segment there is nothing to compare.
            inputs['thresholds'] = np.concatenate([[0.0], inputs['thresholds'][1:]]).astype(np.float32)
            found = run(inputs)
            given = {name: found[name] for name in ENCODER_OUTPUTS}
            expected = {**given, **head({**{name: inputs[name] for name in HEAD_INPUTS if name in inputs}, **given})}
            broken += _count_broken(found, expected)
            found = {name: _repaired(found[name], expected[name]) for name in HEAD_OUTPUTS}
            labels = [np.where(row == _VOID, _VOID, row % num_labels) for row in map(_labels, (found, expected))]
            scores = [_scores(outputs) for outputs in (found, expected)]
            is_alike = np.abs(scores[0] - scores[1]) <= _SCORE_TOLERANCE * np.maximum(*scores)
            agreements.append(float(((labels[0] == labels[1]) & is_alike).mean()))
        return float(np.mean(agreements)), broken

    def _one_word(self) -> dict[str, NDArray[Any]]:
        """Return the word that most pixels of the reference have, by its first name alone."""
        names = ('query_map', 'class_index')
        frames = ({name: self._reference[name][frame] for name in names} for frame in range(self.num_frames))
        labels = np.concatenate([_labels(frame).ravel() for frame in frames])
        row = int(np.bincount(labels[labels != _VOID], minlength=1).argmax())
        found = {name: self._reference[name][row : row + 1] for name in ('text_embeddings', 'synonym_mask', 'is_thing')}
        return {name: values if values.ndim == 1 else values[:, :1] for name, values in found.items()}

    def _many_words(self) -> dict[str, NDArray[Any]]:
        """Return the words of the reference behind many that are like them, but less near to all."""
        words = {name: self._reference[name] for name in ('text_embeddings', 'synonym_mask', 'is_thing')}
        copies = -(-_MANY_WORDS // len(words['is_thing'])) - 1
        fainter = words | {'text_embeddings': (_COPY_LENGTH * words['text_embeddings']).astype(np.float32)}
        return {name: np.concatenate([fainter[name]] * copies + [values]) for name, values in words.items()}


def _stop_if(is_cancelled: Callable[[], bool]) -> None:
    if is_cancelled():
        raise BuildCancelledError('cancelled while graphs were compared with their reference outputs')


def _check(name: str, value: float, limit: float) -> Check:
    # Plain numbers: numpy's are not written to JSON.
    return Check(name, float(value), limit, bool(value >= limit))


def _logit(probability: float) -> float:
    clipped = min(max(probability, 1e-6), 1 - 1e-6)
    return float(np.log(clipped / (1 - clipped)))


def _count_broken(found: Arrays, expected: Arrays) -> int:
    masks = len(expected['score'])
    broken = sum(
        found[name].shape != expected[name].shape or not np.isfinite(found[name]).all()
        for name in expected
        if name not in ('query_map', 'class_index')
    )
    query_map = found['query_map']
    is_unknown = query_map.shape != expected['query_map'].shape or query_map.min() < 0 or query_map.max() > masks
    return broken + int(is_unknown) + int(found['class_index'].shape != expected['class_index'].shape)


def _repaired(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Return something of the right shape and finite, so that the other numbers can still be told."""
    if found.shape != expected.shape:
        return np.zeros_like(expected)
    if np.issubdtype(found.dtype, np.floating):
        return np.nan_to_num(found.astype(np.float64), posinf=0.0, neginf=0.0)
    return found


def _cosine(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    cosine: NDArray[np.float64] = (left * right).sum(-1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosine


def _mask_iou(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return `(n,)` IoU of n pairs of masks; two empty ones agree."""
    axes = tuple(range(1, left.ndim))
    union = (left | right).sum(axes)
    return np.where(union == 0, 1.0, (left & right).sum(axes) / np.maximum(union, 1))


def _labels(outputs: Arrays) -> NDArray[np.int64]:
    """Return `(hm, wm)` row of the vocabulary for each pixel, `_VOID` for void and for unknown masks."""
    queries = outputs['query_map'].astype(np.int64)
    classes = np.concatenate([[_VOID], outputs['class_index'].astype(np.int64)])
    return classes[np.where((queries < 0) | (queries >= len(classes)), 0, queries)]


def _scores(outputs: Arrays) -> NDArray[np.float64]:
    """Return `(hm, wm)` score of each pixel, 0 for void and for unknown masks."""
    queries = outputs['query_map'].astype(np.int64)
    scores = np.concatenate([[0.0], outputs['score'].astype(np.float64)])
    found: NDArray[np.float64] = scores[np.where((queries < 0) | (queries >= len(scores)), 0, queries)]
    return found

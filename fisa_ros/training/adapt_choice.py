"""Chooses how far a model goes from the weights before tuning to those after it, and whether that is worth saving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fisa_ros.training.frozen_views import FrozenView
from fisa_ros.training.mask_scores import MaskScores, total

ALPHAS = (0.5, 0.7, 0.8, 0.9, 1.0)
"""How far to go: what is tried."""
SHORT_ALPHAS = (0.2, 0.35)
"""What is tried besides where a model would not be worth saving: so near to the start, little is learnt."""
MIN_BASE_MASKS = 20
"""Least number of masks on which base classes are measured."""
_MAX_PARTS = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """How far to go, and what is known of it.

    Attributes:
        alpha: How far, 0 for the weights before tuning and 1 for those after it.
        before: Scores before tuning.
        after: Scores of what is chosen. Where there are several parts, each part is scored at the step that the other
            parts choose: what is measured had no share in the choice.
        trials: Scores of each step on all parts, by which `alpha` is chosen.
        of_parts: The step that was scored on each part.
    """

    alpha: float
    before: MaskScores
    after: MaskScores
    trials: Mapping[float, MaskScores]
    of_parts: tuple[float, ...]


def number_of_parts(*images: int) -> int:
    """Return into how many parts images are put that are measured on, each set of them with so many."""
    return min(_MAX_PARTS, *images)


def in_parts(views: Sequence[FrozenView], images: int, parts: int) -> list[list[FrozenView]]:
    """Put views into parts of nearly as many images, neighbours together: they may show the same."""
    placed: list[list[FrozenView]] = [[] for _ in range(parts)]
    for view in views:
        placed[view.image * parts // images].append(view)
    return placed


def choose(
    before: Sequence[MaskScores],
    trials: Mapping[float, Sequence[MaskScores]],
    max_drop: float,
    *,
    is_guessed: bool = False,
) -> Choice:
    """Choose the step at which new classes are best and base classes kept, or else gains outweigh losses most.

    Args:
        before: Scores before tuning on each part.
        trials: For each step, the scores on each part.
        max_drop: Largest loss of base classes, as a share, that counts as kept.
        is_guessed: Whether the model itself made the masks of new classes. Then it names them right before tuning, and
            of steps that are as good the furthest is taken; else the nearest one.
    """
    parts = range(len(before))

    def best(chosen: Sequence[int]) -> float:
        sums = {alpha: total([scores[part] for part in chosen]) for alpha, scores in trials.items()}
        return _best(sums, total([before[part] for part in chosen]), max_drop, is_guessed)

    whole = best(parts)
    of_parts = [best([other for other in parts if other != part]) for part in parts] if len(parts) > 1 else [whole]
    return Choice(
        alpha=whole,
        before=total(before),
        after=total([trials[alpha][part] for part, alpha in enumerate(of_parts)]),
        trials={alpha: total(scores) for alpha, scores in trials.items()},
        of_parts=tuple(of_parts),
    )


def refusal(choice: Choice, max_drop: float, *, is_guessed: bool = False) -> str:
    """Return why a model is not worth saving, empty if it is; arguments are those of `choose`."""
    before, after = choice.before, choice.after
    if after.base.masks < MIN_BASE_MASKS:
        return (
            f'base classes could be measured on {after.base.masks} masks only, {MIN_BASE_MASKS} are needed: nothing '
            'was saved. Give --rehearsal images that show them, or --force'
        )
    drop = after.base_drop(before)
    if drop > max_drop:
        return (
            f'base classes lose {100 * drop:.1f} points, more than the {100 * max_drop:g} allowed: nothing was saved. '
            'Give --rehearsal images that show them, or --force'
        )
    gain = after.gain(before)
    if gain < 0 or (gain == 0 and not is_guessed):
        return (
            f'new classes are {"worse" if is_guessed else "no better"} than before ({_text(before)}, now '
            f'{_text(after)}): nothing was saved. Give more images of them, or --force'
        )
    return ''


def _best(trials: Mapping[float, MaskScores], before: MaskScores, max_drop: float, is_guessed: bool) -> float:
    gains = {alpha: scores.gain(before) for alpha, scores in trials.items()}
    drops = {alpha: scores.base_drop(before) for alpha, scores in trials.items()}
    allowed = [
        alpha
        for alpha in trials
        if drops[alpha] <= max_drop and (gains[alpha] > 0 or (is_guessed and not gains[alpha]))
    ]
    if allowed:
        return max(allowed, key=lambda alpha: (gains[alpha], alpha if is_guessed else -alpha))
    return max(trials, key=lambda alpha: gains[alpha] - drops[alpha])


def _text(scores: MaskScores) -> str:
    return 'none' if scores.new.share is None else f'{100 * scores.new.share:.1f} %'

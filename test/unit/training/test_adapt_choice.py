import pytest
import torch

from fisa_ros.training.adapt_choice import choose, in_parts, number_of_parts, refusal
from fisa_ros.training.frozen_views import FrozenView
from fisa_ros.training.mask_scores import Hits, MaskScores


def scores(new, base, masks=1000):
    """Scores of shares of new and of base classes."""
    kept = Hits(round(base * masks), masks)
    return MaskScores(Hits(round(new * masks), masks), kept, kept)


BEFORE = scores(0.1, 0.9)


def chosen(trials, max_drop=0.01, **options):
    return choose([BEFORE], {alpha: [entry] for alpha, entry in trials.items()}, max_drop, **options)


def test_the_best_step_keeps_the_base_classes():
    trials = {0.5: scores(0.6, 0.9), 0.7: scores(0.8, 0.895), 0.8: scores(0.8, 0.9), 1.0: scores(0.95, 0.7)}
    # The last loses too much; of two alike, the one closer to the weights before.
    assert chosen(trials).alpha == 0.7
    assert chosen(trials, 0.3).alpha == 1.0
    # Where none is allowed, gains outweigh losses most; one that gains nothing is none.
    trials = {0.2: scores(0.1, 0.9), 0.5: scores(0.3, 0.8), 0.7: scores(0.8, 0.6), 1.0: scores(0.9, 0.3)}
    assert chosen(trials).alpha == 0.7


def test_a_short_step_saves_what_a_long_one_would_lose():
    choice = chosen({0.2: scores(0.3, 0.899), 0.5: scores(0.8, 0.85), 1.0: scores(0.9, 0.8)})
    assert choice.alpha == 0.2
    assert refusal(choice, 0.01) == ''


def test_masks_of_the_model_itself_show_no_gain():
    trials = {0.5: scores(0.1, 0.9), 0.9: scores(0.1, 0.9), 1.0: scores(0.09, 0.9)}
    choice = chosen(trials, is_guessed=True)
    assert choice.alpha == 0.9
    assert refusal(choice, 0.01, is_guessed=True) == ''
    assert 'no better than before (10.0 %, now 10.0 %)' in refusal(choice, 0.01)
    assert 'are worse than before' in refusal(chosen({1.0: scores(0.09, 0.9)}), 0.01, is_guessed=True)


def test_what_is_reported_had_no_share_in_the_choice():
    """Each part is best at a step at which the other one is worst: to choose by the same would look good."""
    before = [scores(0.1, 0.9)] * 2
    trials = {0.5: [scores(0.9, 0.9), scores(0.2, 0.9)], 1.0: [scores(0.2, 0.9), scores(0.91, 0.9)]}
    choice = choose(before, trials, 0.01)
    assert choice.of_parts == (1.0, 0.5)
    assert choice.after.new == Hits(400, 2000)
    assert choice.alpha == 1.0
    assert choice.trials[1.0].new == Hits(1110, 2000)
    assert choice.before.base == Hits(1800, 2000)


def test_what_the_other_parts_allow_may_be_refused():
    before = [scores(0.1, 0.9)] * 2
    trials = {0.2: [scores(0.1, 0.9)] * 2, 1.0: [scores(0.8, 0.9), scores(0.8, 0.86)]}
    choice = choose(before, trials, 0.01)
    assert 'base classes lose 2.0 points, more than the 1 allowed' in refusal(choice, 0.01)


def test_too_few_masks_are_refused():
    few = MaskScores(Hits(5, 10), Hits(19, 19), Hits(19, 19))
    assert 'measured on 19 masks only, 20 are needed' in refusal(choose([few], {1.0: [few]}, 0.01), 0.01)


@pytest.mark.parametrize(
    ('images', 'parts'), [(1, [[0]]), (4, [[0], [1], [2], [3]]), (12, [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9], [10, 11]])]
)
def test_views_of_one_image_and_of_neighbours_stay_together(images, parts):
    views = [FrozenView(*[torch.zeros(0)] * 7, number) for number in range(images)]
    placed = in_parts(views + views, images, number_of_parts(images, 30))
    assert [sorted({view.image for view in part}) for part in placed] == parts
    assert all(len(part) == 2 * len(numbers) for part, numbers in zip(placed, parts, strict=True))

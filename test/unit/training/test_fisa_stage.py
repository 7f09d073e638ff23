import numpy as np
import pytest
import torch

from fisa_ros.core.errors import DataError
from fisa_ros.training.batches import Batch
from fisa_ros.training.fisa_stage import ON_NOTHING, FisaOptions, name_predicted_masks, roughen
from fisa_ros.training.mask_accuracy import IGNORED, pad_masks


def masks(*corners):
    """Squares of 4x4 on an 8x8 map."""
    stacked = torch.zeros(len(corners), 8, 8)
    for mask, (y, x) in zip(stacked, corners, strict=True):
        mask[y : y + 4, x : x + 4] = 1
    return stacked


def test_predicted_masks_are_named_by_what_they_lie_on():
    truth = masks((0, 0), (4, 4))
    part = torch.zeros(8, 8)
    part[0, 0] = 1
    predicted = torch.stack([truth[1], truth[0], masks((0, 4))[0], masks((0, 2))[0], part, torch.zeros(8, 8)])
    logits = (2 * predicted - 1)[None] * 5
    batch = Batch(torch.zeros(1, 3, 32, 32), [truth], [torch.tensor([0, 9])], [0])
    # On an object; on unlabelled pixels; half on an object; a part of one; empty.
    assert name_predicted_masks(logits, batch).tolist() == [[9, 0, IGNORED, IGNORED, IGNORED, IGNORED]]


def test_masks_across_several_objects_are_nothing():
    truth = torch.zeros(4, 8, 8)
    for index, (y, x) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        truth[index, y : y + 4, x : x + 4] = 1
    across = torch.zeros(8, 8)
    across[3:5, 3:5] = 1
    batch = Batch(torch.zeros(1, 3, 32, 32), [truth], [torch.tensor([3, 7, 9, 12])], [0])
    assert name_predicted_masks((2 * across - 1)[None, None] * 5, batch).tolist() == [[ON_NOTHING]]


def test_thin_masks_do_not_shrink_to_nothing():
    thin = torch.zeros(1, 1, 8, 8)
    thin[0, 0, :, 3] = 1
    assert all(roughen(thin, np.random.default_rng(seed)).sum() > 0 for seed in range(40))


def test_images_without_objects_name_nothing():
    batch = Batch(torch.zeros(1, 3, 32, 32), [torch.zeros(0, 8, 8)], [torch.zeros(0, dtype=torch.int64)], [0])
    assert name_predicted_masks(torch.ones(1, 2, 8, 8), batch).tolist() == [[IGNORED, IGNORED]]


def test_padding_is_empty_and_ignored():
    batch = Batch(
        torch.zeros(2, 3, 32, 32),
        [masks((0, 0)), masks((0, 0), (4, 4))],
        [torch.tensor([3]), torch.tensor([7, 9])],
        [0, 1],
    )
    stacked, labels = pad_masks(batch)
    assert stacked.shape == (2, 2, 8, 8)
    assert stacked[0, 1].sum() == 0
    assert labels.tolist() == [[3, IGNORED], [7, 9]]


def test_rough_masks_grow_shrink_blur_or_stay():
    square = masks((2, 2))[None]
    areas = {round(float(roughen(square, np.random.default_rng(seed)).sum())) for seed in range(40)}
    assert {4, 16, 36} <= areas
    sharp = [roughen(square, np.random.default_rng(seed)) for seed in range(40)]
    assert any(((mask > 0) & (mask < 1)).any() for mask in sharp)
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in sharp)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'predicted_share': 1.5}, r'predicted_share must be in \[0, 1\], got 1.5'),
        ({'fiser_weight': -1.0}, 'fiser_weight .* -1'),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        FisaOptions(**options)


def test_padding_counts_for_no_predicted_mask():
    truth = masks((0, 0), (0, 4))
    is_shown = torch.zeros(1, 8, 8, dtype=torch.bool)
    is_shown[0, :4] = True
    spilled, below = truth[0].clone(), torch.zeros(8, 8)
    spilled[4:] = 1
    below[5:7, 2:6] = 1
    logits = (2 * torch.stack([spilled, below]) - 1)[None] * 5
    batch = Batch(torch.zeros(1, 3, 32, 32), [truth], [torch.tensor([3, 7])], [0], is_shown=is_shown)
    assert name_predicted_masks(logits, batch).tolist() == [[3, IGNORED]]

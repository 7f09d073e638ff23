import json

import cv2
import numpy as np
import pytest
import torch

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.datasets.coco_panoptic import PanopticDataset, SegmentInfo, encode_ids
from fisa_ros.networks.mask_generator import MaskProposals
from fisa_ros.training.batches import instance_masks, jitter_colors, training_batches, validation_batches
from fisa_ros.training.generator_stage import mean_best_iou

PAD = Resize('pad')
IDS = (1, 300, 70_000)
CATEGORIES = (5, 9, 5)
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture
def dataset(tmp_path):
    """Four images of 48x32: three upright stripes of one colour each, the last one void in image 0."""
    images, annotations = tmp_path / 'train', tmp_path / 'annotations' / 'panoptic_train'
    images.mkdir()
    annotations.mkdir(parents=True)
    document = {
        'images': [{'id': n, 'file_name': f'{n}.png', 'height': 32, 'width': 48} for n in range(4)],
        'annotations': [],
        'categories': [{'id': n, 'name': str(n), 'isthing': 1} for n in (5, 9)],
    }
    for n in range(4):
        count = 2 if n == 0 else 3
        ids, pixels = np.zeros((32, 48), np.int32), np.zeros((32, 48, 3), np.uint8)
        for stripe in range(count):
            ids[:, 16 * stripe : 16 * (stripe + 1)] = IDS[stripe]
            pixels[:, 16 * stripe : 16 * (stripe + 1)] = COLORS[stripe]
        cv2.imwrite(str(images / f'{n}.png'), pixels[..., ::-1])
        cv2.imwrite(str(annotations / f'{n}.png'), encode_ids(ids))
        segments = [{'id': IDS[stripe], 'category_id': CATEGORIES[stripe]} for stripe in range(count)]
        document['annotations'].append({'image_id': n, 'file_name': f'{n}.png', 'segments_info': segments})
    annotations.with_suffix('.json').write_text(json.dumps(document))
    return PanopticDataset.open(images, annotations.with_suffix('.json'))


def assert_same(first, second):
    assert torch.equal(first.images, second.images)
    assert first.indices == second.indices
    for name in ('masks', 'categories'):
        for mine, other in zip(getattr(first, name), getattr(second, name), strict=True):
            assert torch.equal(mine, other)


def test_instance_masks_are_shares_of_cells_without_specks_and_crowds():
    panoptic_map = np.zeros((8, 8), np.int32)
    panoptic_map[:4, :2] = 70_000
    panoptic_map[1, 2] = 70_000
    panoptic_map[4:, :4] = 2
    panoptic_map[7, 4:] = 3
    panoptic_map[6, 4:7] = 3
    panoptic_map[5, 7] = 4
    segments = [
        SegmentInfo(70_000, 5, False),
        SegmentInfo(2, 6, True),
        SegmentInfo(3, 7, False),
        SegmentInfo(4, 8, False),
    ]
    masks, categories = instance_masks(panoptic_map, segments)
    # Seven pixels of segment 3 and one of segment 4 are less than half a cell.
    assert categories.tolist() == [5]
    assert categories.dtype == torch.int64
    assert masks.tolist() == [[[9 / 16, 0.0], [0.0, 0.0]]]
    panoptic_map[6, 7] = 3
    masks, categories = instance_masks(panoptic_map, segments)
    assert categories.tolist() == [5, 7]
    assert masks[1].tolist() == [[0.0, 0.0], [0.0, 0.5]]


def test_an_image_without_instances_gives_no_masks():
    masks, categories = instance_masks(np.zeros((8, 8), np.int32), [SegmentInfo(1, 5, True)])
    assert masks.shape == (0, 2, 2)
    assert masks.dtype == torch.float32
    assert categories.shape == (0,)


def test_batches_depend_on_seed_and_number_alone(dataset):
    source = training_batches(dataset, 16, 4, seed=1)
    first, second, third = next(source), next(source), next(source)
    assert_same(next(training_batches(dataset, 16, 4, seed=1, first_step=2)), third)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, next(training_batches(dataset, 16, 4, seed=2)).images)
    assert first.images.shape == (4, 3, 16, 16)
    assert first.images.dtype == torch.float32
    assert 0 <= first.images.min() < first.images.max() <= 1
    assert all(mask.shape[1:] == (4, 4) for mask in first.masks)


def test_processes_make_together_the_batch_of_one(dataset):
    whole = next(training_batches(dataset, 16, 4, seed=1, first_step=3))
    parts = [next(training_batches(dataset, 16, 4, seed=1, first_step=3, part=part, parts=2)) for part in (0, 1)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert parts[0].indices + parts[1].indices == whole.indices
    assert parts[1].categories[1].tolist() == whole.categories[3].tolist()
    with pytest.raises(DataError, match='batch_size must be divisible by 3 parts, got 4'):
        next(training_batches(dataset, 16, 4, seed=1, parts=3))


@pytest.mark.parametrize('resize', [STRETCH, PAD])
def test_masks_stay_on_their_pixels_through_crop_and_flip(dataset, resize):
    source = training_batches(dataset, 48, 8, seed=0, resize=resize)
    right, turned = [], set()
    for _ in range(4):
        batch = next(source)
        for image, masks, categories, index in zip(
            batch.images, batch.masks, batch.categories, batch.indices, strict=True
        ):
            full = masks.repeat_interleave(4, 1).repeat_interleave(4, 2) == 1
            assert set(categories.tolist()) <= {5, 9}
            for mask, category in zip(full, categories.tolist(), strict=True):
                # The green stripe alone is of category 9; gains change colours but not which one is strongest.
                strongest = image[:, mask].mean(1).argmax().item()
                right.append(strongest == 1 if category == 9 else strongest != 1)
            if index:
                turned.add(bool(image[0, :, 0].mean() > image[2, :, 0].mean()))
    assert len(right) > 60
    assert all(right)
    assert turned == {True, False}


def test_noise_and_gain_keep_the_range():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = image.clone()
    variants = [jitter_colors(image, np.random.default_rng(seed)) for seed in range(20)]
    assert torch.equal(image, kept)
    assert all(variant.min() >= 0 and variant.max() <= 1 for variant in variants)
    assert torch.stack(variants).mean((1, 2, 3)).std() > 0.02


def test_validation_shows_every_image_once_as_it_is(dataset):
    batches = list(validation_batches(dataset, 48, 3))
    assert [batch.indices for batch in batches] == [[0, 1, 2], [3]]
    image = batches[1].images[0]
    assert image.shape == (3, 48, 48)
    assert (image[:, 20, [4, 24, 44]] * 255).T.round().tolist() == [list(color) for color in COLORS]
    assert batches[0].categories[0].tolist() == [5, 9]
    assert batches[1].categories[0].tolist() == [5, 9, 5]
    assert batches[1].masks[0].sum((1, 2)).tolist() == [48, 48, 48]
    assert [batch.indices for batch in validation_batches(dataset, 48, 3, limit=2)] == [[0, 1]]


def test_what_cannot_be_batched_is_refused(dataset):
    with pytest.raises(DataError, match='multiple of 4 pixels, got 18'):
        next(training_batches(dataset, 18, 2, seed=0))
    with pytest.raises(DataError, match='has no images'):
        next(validation_batches(PanopticDataset(dataset.path, {}, ()), 16, 2))
    for record in dataset.records:
        record.image_path.write_bytes(b'no image')
    with pytest.raises(DataError, match='is not an image that can be read'):
        next(training_batches(dataset, 16, 2, seed=0))


def test_a_padded_image_has_nothing_in_its_padding(dataset):
    (batch, _) = validation_batches(dataset, 48, 3, resize=PAD)
    assert not batch.images[:, :, 32:].any()
    assert (batch.images[1, :, 20, [4, 24, 44]] * 255).T.round().tolist() == [list(color) for color in COLORS]
    # 16 x 32 pixels are 4 x 8 cells.
    assert batch.masks[1].sum((1, 2)).tolist() == [32, 32, 32]
    assert not batch.masks[1][:, 8:].any()
    assert batch.is_shown.tolist() == [[[row < 8] * 12 for row in range(12)]] * 3
    masks = torch.ones(3, 2, 12, 12, dtype=torch.bool)
    assert torch.equal(batch.shown(masks), batch.is_shown[:, None].expand(3, 2, 12, 12))
    (stretched, _) = validation_batches(dataset, 48, 3)
    assert stretched.is_shown is None
    assert stretched.shown(masks) is masks


def test_windows_are_padded_as_images_of_their_shape(dataset):
    source = training_batches(dataset, 48, 8, seed=0, resize=Resize('pad', (51, 102, 204)))
    shapes, noisy = set(), []
    for _ in range(4):
        batch = next(source)
        for image, masks, is_shown in zip(batch.images, batch.masks, batch.is_shown, strict=True):
            rows, columns = int(is_shown.any(1).sum()), int(is_shown.any(0).sum())
            shapes.add((rows, columns))
            assert 12 in (rows, columns)
            assert is_shown.sum() == rows * columns
            assert not masks[:, ~is_shown].any()
            padding = image[:, ~is_shown.repeat_interleave(4, 0).repeat_interleave(4, 1)]
            # Colours change in the image alone.
            torch.testing.assert_close(padding, torch.tensor([[0.2], [0.4], [0.8]]).expand_as(padding))
            # A column of upright stripes has one colour but for noise.
            noisy.append(bool(image[:, : 4 * rows - 4, 8].std(1).max() > 0.005))
    assert len(shapes) > 4
    assert {12} < {rows for rows, _ in shapes}
    assert set(noisy) == {True, False}


def test_padding_is_not_in_the_best_iou(dataset):
    class Stripes(torch.nn.Module):
        """Proposes the left stripe, down to the end of the padding."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            logits = torch.full((len(images), 1, 12, 12), -5.0)
            logits[:, :, :, :4] = 5.0
            return MaskProposals(logits, torch.ones(len(images), 1))

    found = mean_best_iou(Stripes(), dataset, 48, 4, PAD, 3)
    # One stripe of 2 or 3 in each of four images.
    assert found['recall'] == found['best_iou'] == pytest.approx(4 / 11)

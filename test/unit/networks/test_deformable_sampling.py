import pytest
import torch
import torch.nn.functional as F

from fisa_ros.networks.deformable_sampling import LevelSampler

SIZES = (2, 3, 8)
CELLS = sum(size * size for size in SIZES)
SAMPLER = LevelSampler(SIZES)
BATCH, QUERIES, HEADS, POINTS, DIM = 2, 7, 3, 4, 5


def inputs(reach):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(BATCH, CELLS, HEADS, DIM, generator=generator)
    points = torch.rand(BATCH, QUERIES, HEADS, len(SIZES), POINTS, 2, generator=generator)
    weights = torch.rand(BATCH, QUERIES, HEADS, len(SIZES), POINTS, generator=generator)
    return value, (points - 0.5) * 2 * reach + 1.5, weights


def by_grid_sample(value, points, weights):
    """The same with GridSample, level by level, image by image and head by head."""
    result = torch.zeros(BATCH, QUERIES, HEADS, DIM)
    start = 0
    for level, size in enumerate(SIZES):
        for image in range(BATCH):
            for head in range(HEADS):
                cells = value[image, start : start + size * size, head].T.reshape(1, DIM, size, size)
                grid = (points[image, :, head, level] + 0.5) / size * 2 - 1
                sampled = F.grid_sample(cells, grid[None], mode='bilinear', padding_mode='zeros', align_corners=False)
                result[image, :, head] += (sampled[0] * weights[image, :, head, level]).sum(-1).T
        start += size * size
    return result.flatten(2)


@pytest.mark.parametrize('reach', [1.0, 4.0, 40.0, 1e6])
def test_samples_are_those_of_grid_sample(reach):
    value, points, weights = inputs(reach)
    expected = by_grid_sample(value, points, weights)
    torch.testing.assert_close(SAMPLER(value, points, weights), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('shift', [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_samples_on_centres_and_edges_are_those_of_grid_sample(shift):
    value, points, weights = inputs(8.0)
    points = points.round() + shift
    expected = by_grid_sample(value, points, weights)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(SAMPLER(value, points, weights), expected, atol=1e-5, rtol=0)


def test_positions_that_are_no_numbers_sample_zeros():
    value, points, weights = inputs(4.0)
    broken = points.clone()
    broken[0, 0, ..., 0], broken[0, 1, ..., 1], broken[0, 2] = torch.nan, torch.inf, -torch.inf
    found = SAMPLER(value, broken, weights)
    assert torch.equal(found[0, :3], torch.zeros(3, HEADS * DIM))
    torch.testing.assert_close(found[:, 3:], SAMPLER(value, points, weights)[:, 3:])


def test_the_centre_of_a_cell_samples_the_cell():
    value = torch.arange(CELLS, dtype=torch.float32).view(1, CELLS, 1, 1)
    points = SAMPLER.centers[None, :, None, :, None]
    start = 0
    for level, size in enumerate(SIZES):
        weights = torch.zeros(1, CELLS, 1, len(SIZES), 1)
        weights[:, :, :, level] = 1.0
        cells = slice(start, start + size * size)
        sampled = SAMPLER(value, points, weights)[0, :, 0]
        torch.testing.assert_close(sampled[cells], value[0, cells, 0, 0], atol=1e-4, rtol=0)
        start += size * size


def test_a_place_is_the_same_share_of_every_level():
    centers = LevelSampler((4, 8)).centers
    assert centers.shape == (80, 2, 2)
    # The second cell of the second row of four is 1.5 / 4 from the edge, which is 3 of 8.
    assert centers[5].tolist() == [[1.0, 1.0], [2.5, 2.5]]


def test_values_of_half_precision_give_half_precision():
    value, points, weights = inputs(4.0)
    found = SAMPLER(value.half(), points, weights)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), by_grid_sample(value, points, weights), atol=2e-2, rtol=0)

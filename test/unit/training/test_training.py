import json

import numpy as np
import pytest
import torch
from torch import nn

from fisa_ros.core.errors import DataError
from fisa_ros.simulation.views import ViewSet
from fisa_ros.training.batches import Batch, instance_masks, training_batches, validation_batches
from fisa_ros.training.loop import Phase, train
from fisa_ros.training.mask_loss import mask_loss, match
from fisa_ros.training.recipe import load_recipe


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    instance_maps = np.zeros((4, 32, 32), np.uint8)
    instance_maps[:, :16] = 1
    instance_maps[:, 16:, 8:] = 2
    return ViewSet(rng.integers(0, 255, (4, 32, 32, 3)).astype(np.uint8), instance_maps, [[3, 7]] * 4)


def test_instance_masks_are_shares_of_cells():
    instance_map = torch.zeros(8, 8, dtype=torch.uint8)
    instance_map[:4, :2] = 1
    instance_map[7, 7] = 2
    masks, categories = instance_masks(instance_map, [5, 6])
    # The single pixel of the second instance is too little to learn from.
    assert categories.tolist() == [5]
    assert masks.tolist() == [[[0.5, 0.0], [0.0, 0.0]]]


def test_batches_depend_on_seed_and_step_alone(views):
    source = training_batches(views, 16, 2, seed=1)
    first, second = next(source), next(source)
    again = next(training_batches(views, 16, 2, seed=1, first_step=1))
    assert torch.equal(second.images, again.images)
    assert not torch.equal(first.images, second.images)
    assert first.images.shape == (2, 3, 16, 16)
    assert all(mask.shape[1:] == (4, 4) for mask in first.masks)


def test_validation_shows_every_view_once_as_it_is(views):
    batches = list(validation_batches(views, 3))
    assert [len(batch.masks) for batch in batches] == [3, 1]
    np.testing.assert_allclose(batches[1].images[0].permute(1, 2, 0) * 255, views.images[3], atol=1e-3)


def test_match_finds_the_cheapest_assignment():
    masks = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]])
    logits = torch.tensor([[-9.0, -9, -9, 9], [9, 9, 9, 9], [9, 9, -9, -9]])
    queries, targets = match(logits, torch.zeros(3), masks)
    assert dict(zip(targets.tolist(), queries.tolist(), strict=True)) == {0: 2, 1: 0}


def test_perfect_masks_cost_nothing_and_no_objects_are_allowed():
    mask = torch.zeros(1, 4, 4)
    mask[0, :2] = 1
    logits = torch.stack([(2 * mask[0] - 1) * 50, torch.full((4, 4), -50.0)])[None]
    objectness = torch.tensor([[50.0, -50.0]])
    assert mask_loss([(logits, objectness)], [mask])['loss'] < 1e-3
    assert mask_loss([(logits, -objectness)], [mask])['loss'] > 1
    assert mask_loss([(logits, objectness)], [mask[:0]])['loss'].isfinite()


def constant_batches(_, step):
    while True:
        generator = torch.Generator().manual_seed(step)
        yield Batch(torch.rand(2, 3, generator=generator), [], [])
        step += 1


def square_loss(module):
    return lambda batch, _: {'loss': (module(batch.images) - 1).square().mean()}


PHASES = [Phase(32, 2, 60, 0.1), Phase(64, 2, 30, 0.1)]


def fresh():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_training_learns_and_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    straight = fresh()
    train(
        straight, list(straight.parameters()), PHASES, constant_batches, square_loss(straight), tmp_path / 'a',
        validate=lambda: {'score': 0.25}, validate_every=25,
    )  # fmt: skip
    log = [json.loads(line) for line in (tmp_path / 'a' / 'log.jsonl').read_text().splitlines()]
    assert [(entry['step'], entry['score']) for entry in log] == [(step, 0.25) for step in (25, 50, 60, 75, 90)]
    assert square_loss(straight)(next(constant_batches(None, 99)), 0)['loss'] < 0.05
    broken = fresh()
    calls = []

    def fails_once(batch, step):
        calls.append(step)
        value = square_loss(broken)(batch, step)
        if step == 60:
            value['loss'] = value['loss'] * float('nan')
        return value

    with pytest.raises(DataError, match='loss is nan at step 60'):
        train(broken, list(broken.parameters()), PHASES, constant_batches, fails_once, tmp_path / 'b')
    resumed = nn.Linear(3, 1)
    seen = []

    def watched(batch, step):
        seen.append(step)
        return square_loss(resumed)(batch, step)

    train(resumed, list(resumed.parameters()), PHASES, constant_batches, watched, tmp_path / 'b')
    assert seen == list(range(60, 90))
    torch.testing.assert_close(resumed.weight, straight.weight, atol=0, rtol=0)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('stage: generator\nsurprise: 1\n', r"unknown entries \['surprise'\]"),
        ('stage: bake\nseed: 0\nviews: {}\ngenerator: {}\nphases: []\n', "stage must be .* got 'bake'"),
        ('stage: generator\nphases: [{size: 1, epochs: 2}]\n', 'epochs'),
        ('- a\n', 'unknown entries'),
        ('stage: [', 'cannot be read'),
    ],
)  # fmt: skip
def test_recipes_with_mistakes_are_refused(tmp_path, text, message):
    path = tmp_path / 'r.yaml'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_recipe(str(path))


def test_shipped_recipes_load_and_unknown_ones_list_them():
    assert load_recipe('tiny-generator').stage == 'generator'
    assert load_recipe('tiny-classifier').classifier is not None
    with pytest.raises(DataError, match='shipped: tiny-classifier, tiny-generator'):
        load_recipe('tiny')

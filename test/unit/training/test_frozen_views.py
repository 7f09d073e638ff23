from dataclasses import replace

import numpy as np
import pytest
import torch

from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.networks.build import build_network
from fisa_ros.runtime.backend import SURE_LOGIT
from fisa_ros.training.adapt_stage import AdaptOptions, interpolate, tune, tuned_state
from fisa_ros.training.batches import Batch, validation_batches
from fisa_ros.training.checkpoint import load_tensors
from fisa_ros.training.fisa_stage import ON_NOTHING
from fisa_ros.training.frozen_views import FrozenView, Guard, collate_views, freeze_views, vocabulary_tensors
from fisa_ros.training.loop import CHECKPOINT_NAME
from fisa_ros.training.mask_accuracy import IGNORED
from fisa_ros.training.mask_scores import MaskScores, score_views, sure_views
from fisa_ros.training.settings import RunSettings
from fisa_ros.training.vocabulary_sampler import VocabularySampler

TEMPLATES = ('{}', 'a {}')


class Letters(torch.nn.Module):
    """A text encoder that needs no weights: a fixed direction for each sentence."""

    def encode(self, sentences):
        rows = [np.random.default_rng(list(sentence.encode())).normal(size=16) for sentence in sentences]
        return torch.nn.functional.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(5)
    generator = {'type': 'tiny', 'image_size': 64}
    classifier = {
        'type': 'tiny', 'image_size': 64, 'text_dim': 16, 'width': 32, 'layers': 2, 'heads': 2,
        'stem_channels': [4, 8, 16], 'stem_blocks': [1, 1, 1], 'seve_blocks': 1, 'seve_width': 16, 'merge_size': 16,
    }  # fmt: skip
    return build_network(generator, classifier).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def guard():
    classes = VocabularyRegistry().propose(VocabularyRequest(('floor', 'chair, seat', 'ball'), ('floor',)))
    base = replace(classes, classes=classes.classes[:2])
    both = (vocabulary_tensors(vocabulary, Letters(), TEMPLATES) for vocabulary in (classes, base))
    return Guard(*both, frozenset({3}))


@pytest.fixture(scope='module')
def batches(toy_dataset):
    numbers = torch.zeros(10, dtype=torch.int64)
    numbers[[3, 7, 9]] = torch.tensor([1, 2, 3])
    return [
        replace(batch, categories=[numbers[entry] for entry in batch.categories])
        for batch in validation_batches(toy_dataset, 64, 3)
    ]


@pytest.fixture(scope='module')
def views(network, guard, batches):
    return freeze_views(network, batches, guard)


def test_views_lead_to_the_answers_of_the_whole_network(network, guard, batches, views):
    batch = batches[0]
    count = len(batch.masks[0])
    logits = (2 * batch.masks[0][None] - 1) * SURE_LOGIT
    vocabulary = guard.base
    with torch.no_grad():
        embeddings = network.tower(batch.images[:1], logits, vocabulary.semantic_tokens, vocabulary.token_mask)
        expected = network.head.class_logits(embeddings, vocabulary.text_embeddings, vocabulary.synonym_mask)[0]
        collated = collate_views(views)
        kept = network.tower.embed_inputs(
            collated.tokens, collated.bias, vocabulary.semantic_tokens, vocabulary.token_mask
        )
        scores = network.head.class_logits(kept, vocabulary.text_embeddings, vocabulary.synonym_mask)[0]
    assert views[0].labels[:count].tolist() == batch.categories[0].tolist()
    assert torch.allclose(views[0].base_logits[:count], expected, atol=1e-3)
    # What is kept in half precision, and padding, change next to nothing.
    assert torch.allclose(scores[:count], expected, atol=0.05)


def test_what_is_guarded_is_nothing_new(views):
    for view in views:
        assert not view.is_guarded[view.labels == 3].any()
        assert view.is_guarded[view.is_true & (view.labels != 3)].all()
        assert view.numbers() <= {1, 2, 3}


def test_predicted_masks_on_new_objects_are_not_guarded(network, guard):
    class Proposals:
        def __call__(self, images):
            masks = torch.full((1, 5, 16, 16), -5.0)
            masks[0, 0, :4, :4] = 5.0
            masks[0, 1, 6:14, 8:] = 5.0
            masks[0, 3, 13:, :4] = 5.0
            masks[0, 4, :4, 6:8] = 5.0
            masks[0, 4, 12:, 8:] = 5.0
            return type('P', (), {'mask_logits': masks, 'objectness': torch.ones(1, 5)})

    truth = torch.zeros(1, 16, 16)
    truth[0, :4, :8] = 1
    is_shown = torch.ones(1, 16, 16, dtype=torch.bool)
    is_shown[0, 12:] = False
    batch = Batch(torch.rand(1, 3, 64, 64), [truth], [torch.tensor([3])], [0], is_shown=is_shown)
    generator = network.generator
    try:
        del network.generator
        network.__dict__['generator'] = Proposals()
        (view,) = freeze_views(network, [batch], guard)
    finally:
        del network.__dict__['generator']
        network.generator = generator
    # True mask of the new class; on half of it; elsewhere; empty; in the padding alone; on it, and in the padding.
    assert view.is_guarded.tolist() == [False, False, True, False, False, False]


def make_view(labels, is_true, base_logits, is_guarded):
    count = len(labels)
    return FrozenView(
        torch.zeros(17, 32).half(), torch.zeros(count, 17).half(), torch.tensor(labels), torch.tensor(is_true),
        torch.tensor(base_logits), torch.tensor(is_guarded),
    )  # fmt: skip


def test_what_the_model_was_sure_of_becomes_the_truth():
    logits = [[0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 9.0, 0.0]]
    view = make_view(
        [3, IGNORED, ON_NOTHING, IGNORED, 1],
        [True, False, False, False, True],
        logits,
        [False, True, True, False, True],
    )
    (sure,) = sure_views([view], [1, 2])
    # New; sure; unsure; sure but on something new; a true mask of a base class.
    assert sure.labels.tolist() == [3, 1, IGNORED, IGNORED, IGNORED]
    assert sure.is_true.tolist() == [True, True, False, False, False]


def test_scores_part_new_from_base(network, guard, views):
    scores = score_views(network, views, guard)
    labels = torch.cat([view.labels[view.is_true] for view in views])
    assert scores.new_masks == int((labels == 3).sum())
    assert scores.base_masks == int((labels > 0).sum()) - scores.new_masks
    assert set(scores.per_class) == {3}
    assert scores.per_class[3] == scores.new
    none = score_views(network, [make_view([IGNORED], [True], [[0.0, 0.0, 0.0]], [False])], guard)
    assert (none.new, none.base, none.base_masks) == (None, None, 0)


def test_the_larger_loss_counts():
    before = MaskScores(0.1, 10, 0.9, 0.8, 50)
    assert MaskScores(0.5, 10, 0.9, 0.7, 50).base_drop(before) == pytest.approx(0.1)
    assert MaskScores(0.5, 10, 0.6, 0.9, 50).base_drop(before) == pytest.approx(0.3)
    assert MaskScores(0.5, 10, 0.95, 0.85, 50).base_drop(before) == pytest.approx(-0.05)
    assert MaskScores(0.5, 10, None, None, 0).base_drop(before) == 1.0
    assert before.with_base_of(MaskScores(None, 0, 0.4, 0.3, 7)).base_masks == 7


def test_tuning_learns_the_new_class_and_touches_nothing_else(network, guard, views, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start = tuned_state(network)
    names = {1: ['floor'], 2: ['chair', 'seat'], 3: ['ball']}
    sampler = VocabularySampler(Letters(), TEMPLATES, 32, names, list(names))
    first = score_views(network, views, guard)
    options = AdaptOptions(steps=100, learning_rate=5e-3, batch_size=4, guard_weight=0.0)
    assert tune(network, views, views[:1], sampler, guard, options, tmp_path, 1, RunSettings()) == 100
    # The frozen parts of a large model take gigabytes.
    parameters = {name for name, _ in network.named_parameters()}
    assert load_tensors(tmp_path / CHECKPOINT_NAME)['module'].keys() & parameters == start.keys()
    last = score_views(network, views, guard)
    assert last.new > max(first.new, 0.8)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(start)
    assert all(
        name.startswith(('tower.mask_queries.', 'tower.seve.', 'head.void', 'tower.visual.proj')) for name in changed
    )
    end = tuned_state(network)
    interpolate(network, start, end, 0.5)
    name = 'tower.mask_queries.0.weight'
    half = network.state_dict()[name]
    assert torch.allclose(half, (start[name] + end[name]) / 2, atol=1e-3)
    assert torch.equal(half, half.half().float())
    network.load_state_dict(before)


def test_the_same_seed_gives_the_same_weights(network, guard, views, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = {1: ['floor'], 2: ['chair'], 3: ['ball']}
    sampler = VocabularySampler(Letters(), TEMPLATES, 32, names, list(names))
    ends = []
    for number, seed in enumerate((4, 4, 5)):
        network.load_state_dict(before)
        options = AdaptOptions(steps=3, batch_size=2)
        tune(network, views, [], sampler, guard, options, tmp_path / str(number), seed, RunSettings())
        ends.append(tuned_state(network))
    network.load_state_dict(before)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][name], ends[2][name]) for name in ends[0])

from dataclasses import replace

import numpy as np
import pytest
import torch

from fisa_ros.core.errors import DataError
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.site_classes import NEW_CROWD, UNKNOWN
from fisa_ros.networks.build import build_network
from fisa_ros.runtime.backend import SURE_LOGIT
from fisa_ros.training.adapt_stage import AdaptOptions, _divergence, interpolate, tune, tuned_state
from fisa_ros.training.batches import Batch, validation_batches
from fisa_ros.training.checkpoint import load_tensors
from fisa_ros.training.fisa_stage import ON_NOTHING
from fisa_ros.training.frozen_views import (
    FrozenView,
    Guard,
    _is_surely_base,
    collate_views,
    freeze_views,
    vocabulary_tensors,
)
from fisa_ros.training.loop import CHECKPOINT_NAME
from fisa_ros.training.mask_accuracy import IGNORED
from fisa_ros.training.mask_scores import Hits, MaskScores, score_views, sure_views, total
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


@pytest.fixture
def proposing(network):
    """Makes the generator propose given masks, each as rows and columns of the grid."""
    generator = network.generator

    def propose(*areas):
        masks = torch.full((1, len(areas), 16, 16), -5.0)
        for number, area in enumerate(areas):
            if area is not None:
                masks[0, number][area] = 5.0
        answer = type('P', (), {'mask_logits': masks, 'objectness': torch.ones(1, len(areas))})
        del network.generator
        network.__dict__['generator'] = lambda images: answer

    yield propose
    network.__dict__.pop('generator', None)
    network.generator = generator


def frozen(network, guard, *truth, shown_rows=16):
    """Freeze one view of an image, of so many rows of the grid, whose truth is given as numbers and areas."""
    masks = torch.zeros(len(truth), 16, 16)
    for mask, (_, area) in zip(masks, truth, strict=True):
        mask[area] = 1
    numbers = torch.tensor([number for number, _ in truth], dtype=torch.int64)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    is_shown = (torch.arange(16) < shown_rows)[None, :, None].expand(1, 16, 16)
    (view,) = freeze_views(network, [Batch(image, [masks], [numbers], [5], is_shown=is_shown)], guard)
    assert view.image == 5
    return view


TOP, LEFT, BOTTOM = np.s_[:4, :], np.s_[:4, :8], np.s_[8:, :]


def test_predicted_masks_are_guarded_where_truth_accounts_for_them(network, guard, proposing):
    # On half of the new object; on the floor; on what nobody labelled; empty.
    proposing(np.s_[:4, :4], np.s_[9:12, 2:9], np.s_[5:7, :], None)
    view = frozen(network, guard, (3, LEFT), (1, BOTTOM))
    predicted = ~view.is_true
    assert view.is_guarded[view.is_true].tolist() == [False, True]
    assert view.is_guarded[predicted].tolist() == [False, True, False, False]
    assert view.may_be_new[predicted].tolist() == [False, False, True, False]
    assert not view.may_be_new[view.is_true].any()


def test_the_padding_has_no_share_in_masks(network, guard, proposing):
    # On the new object and in the padding; on the floor and in the padding; in the padding alone.
    new, floor, padding = np.s_[:4, :8], np.s_[6:12, :], np.s_[12:, :]
    proposing(np.s_[::15, :6], np.s_[10:, :], padding)
    view = frozen(network, guard, (3, new), (1, floor), shown_rows=12)
    predicted = ~view.is_true
    assert view.is_guarded[predicted].tolist() == [False, True, False]
    assert not view.may_be_new.any()


def test_what_is_labelled_and_in_no_vocabulary_is_nothing_new(network, guard, proposing):
    proposing(np.s_[9:12, 2:9])
    view = frozen(network, guard, (3, LEFT), (UNKNOWN, BOTTOM))
    assert view.is_guarded.tolist() == [False, True, True]
    assert not view.may_be_new.any()


def test_a_group_of_new_objects_is_neither_taught_nor_guarded(network, guard, proposing):
    # One of the group; all of it.
    proposing(np.s_[:4, :4], TOP)
    view = frozen(network, guard, (NEW_CROWD, TOP), (1, BOTTOM))
    assert view.labels.tolist() == [1, IGNORED, IGNORED]
    assert view.is_guarded.tolist() == [True, False, False]
    assert not view.may_be_new.any()
    assert view.numbers() == {1}


def test_an_unlabelled_mask_is_guarded_where_the_model_is_sure_of_a_base_class(network, guard, proposing):
    proposing(np.s_[5:7, :])
    view = frozen(network, guard, (3, LEFT))
    assert view.may_be_new.tolist() == [False, True]
    rows = guard.together.text_embeddings.shape[0]
    scores = torch.zeros(1, 4, rows + 1)
    # Sure of the floor; of the new ball; of void; of the floor, and yet the ball has a share.
    scores[0, 0, 0] = scores[0, 1, 2] = scores[0, 2, rows] = 9.0
    scores[0, 3, 0], scores[0, 3, 2] = 9.0, 7.0
    assert _is_surely_base(scores, guard.together, guard.new)[0].tolist() == [True, False, False, False]


def test_new_words_may_count_on_what_may_be_new_alone():
    base_logits = torch.tensor([[2.0, 0.0, 1.0]])
    # Two base classes, one new one, void: the same base answer, and the new class claims the mask.
    claimed = torch.tensor([[2.0, 0.0, 6.0, 1.0]])
    changed = torch.tensor([[0.0, 2.0, 6.0, 1.0]])
    former = torch.tensor([[2.0, 0.0, -30.0, 1.0]])
    assert _divergence(claimed, base_logits, is_open=True) == pytest.approx(0, abs=1e-6)
    assert _divergence(changed, base_logits, is_open=True) > 0.5
    assert _divergence(claimed, base_logits, is_open=False) > 3
    assert _divergence(former, base_logits, is_open=False) == pytest.approx(0, abs=1e-6)


def test_objects_that_nobody_labelled_are_still_found(network, guard, toy_dataset, tmp_path):
    """The ball is labelled in one image of six, nothing else is, and the generator finds all of it everywhere."""
    numbers = torch.zeros(10, dtype=torch.int64)
    numbers[[3, 7, 9]] = torch.tensor([1, 2, 3])
    whole = [
        replace(batch, categories=[numbers[batch.categories[0]]]) for batch in validation_batches(toy_dataset, 64, 1)
    ]
    generator, before = network.generator, {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measured = freeze_views(network, whole, guard)
    views = []
    try:
        del network.generator
        for number, batch in enumerate(whole):
            (masks,), (classes,) = batch.masks, batch.categories
            logits = (2 * masks[None] - 1) * SURE_LOGIT
            answer = type('P', (), {'mask_logits': logits, 'objectness': torch.ones(1, len(masks))})
            network.__dict__['generator'] = lambda images, answer=answer: answer
            kept = (classes == 3) & (number == 0)
            views += freeze_views(network, [replace(batch, masks=[masks[kept]], categories=[classes[kept]])], guard)
    finally:
        network.__dict__.pop('generator', None)
        network.generator = generator
    names = {1: ['floor'], 2: ['chair', 'seat'], 3: ['ball']}
    sampler = VocabularySampler(Letters(), TEMPLATES, 32, names, list(names))
    options = AdaptOptions(steps=60, learning_rate=5e-3, batch_size=4, guard_weight=20.0)
    shares = []
    shut = [
        replace(view, is_guarded=view.is_guarded | view.may_be_new, may_be_new=torch.zeros_like(view.may_be_new))
        for view in views
    ]
    for kind, used in (('open', views), ('shut', shut)):
        network.load_state_dict(before)
        # What is unlabelled stands beside the one that is labelled.
        tune(network, used, used[1:], sampler, guard, options, tmp_path / kind, 1, RunSettings())
        shares.append(score_views(network, measured, guard).new.share)
    network.load_state_dict(before)
    assert shares[0] > shares[1] + 0.3, shares


def make_view(labels, is_true, base_logits, is_guarded, image=0):
    count = len(labels)
    return FrozenView(
        torch.zeros(17, 32).half(), torch.zeros(count, 17).half(), torch.tensor(labels), torch.tensor(is_true),
        torch.tensor(base_logits), torch.tensor(is_guarded), torch.zeros(count, dtype=torch.bool), image,
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
    assert scores.new.masks == int((labels == 3).sum())
    assert scores.base.masks == int((labels > 0).sum()) - scores.new.masks
    assert scores.new.views == sum(3 in view.labels[view.is_true] for view in views)
    assert scores.per_class == {3: scores.new}
    none = score_views(network, [make_view([IGNORED], [True], [[0.0, 0.0, 0.0]], [False])], guard)
    assert (none.new.share, none.base.share, none.base.masks) == (None, None, 0)
    assert score_views(network, [], guard) == MaskScores()


def test_scores_of_parts_add_up(network, guard, views):
    parts = [score_views(network, part, guard) for part in (views[:2], views[2:])]
    assert total(parts) == score_views(network, views, guard)


def test_the_larger_loss_counts():
    def scores(base, together):
        return MaskScores(Hits(1, 10), Hits(base, 100), Hits(together, 100))

    before = scores(90, 80)
    assert scores(90, 70).base_drop(before) == pytest.approx(0.1)
    assert scores(60, 90).base_drop(before) == pytest.approx(0.3)
    assert scores(95, 85).base_drop(before) == pytest.approx(-0.05)
    assert MaskScores(Hits(5, 10)).base_drop(before) == 1.0
    assert MaskScores(Hits(5, 10)).gain(before) == pytest.approx(0.4)
    assert before.with_base_of(MaskScores(base=Hits(2, 7))).base.masks == 7


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
    assert last.new.share > max(first.new.share, 0.8)
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


def test_too_little_memory_to_tune_names_what_an_adaptation_can_do(network, guard, views, tmp_path, monkeypatch):
    def overfull(*_):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    monkeypatch.setattr(network.trainable_tower, 'embed_inputs', overfull)
    names = {1: ['floor'], 2: ['chair'], 3: ['ball']}
    sampler = VocabularySampler(Letters(), TEMPLATES, 32, names, list(names))
    with pytest.raises(DataError, match=r'at step 0: close .* smaller model, .* CUDA_VISIBLE_DEVICES') as raised:
        tune(network, views, [], sampler, guard, AdaptOptions(steps=3), tmp_path, 1, RunSettings())
    assert '--accumulate' not in str(raised.value)


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

import pytest
import torch
import torch.nn.functional as F

from fisa_ros.networks.build import tiny_tower
from fisa_ros.networks.panoptic_head import PanopticHead
from fisa_ros.training.fiser import (
    NOTHING_HIDDEN,
    HiddenWordCycle,
    SemanticReconstruction,
    hide_tokens,
    reconstruction_loss,
)

DIM = 16


@pytest.fixture
def fiser():
    torch.manual_seed(0)
    return SemanticReconstruction(24, DIM, inner=16, heads=2, depth=2)


@pytest.fixture
def tower():
    torch.manual_seed(0)
    tower = tiny_tower(
        image_size=32, text_dim=DIM, width=24, layers=2, heads=2, stem_channels=(8, 12, 16), stem_blocks=(1, 1, 1),
        seve_blocks=1, seve_width=8,
    ).eval()  # fmt: skip
    with torch.no_grad():
        tower.seve[0].gate.fill_(0.8)
    return tower


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def predict(tower, fiser, image, tokens, mask):
    encoded = tower.encode(image, torch.randn(len(image), 1, 8, 8), tokens, mask)
    return fiser(encoded.image_tokens, tokens, mask)


@torch.inference_mode()
@pytest.mark.parametrize('count', [1, 5], ids=['the only word', 'one of five'])
def test_the_hidden_word_cannot_leak(tower, fiser, count):
    image, tokens = torch.rand(2, 3, 32, 32), unit(8, DIM)
    hidden = torch.tensor([0, 0])
    mask = hide_tokens(torch.arange(8) < count, hidden)
    changed = tokens.clone()
    changed[0] = unit(DIM)
    expected = predict(tower, fiser, image, tokens, mask)
    assert expected.shape == (2, DIM)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(2))
    assert torch.equal(predict(tower, fiser, image, changed, mask), expected)
    # What is shown and what is seen does matter.
    assert (predict(tower, fiser, image.flip(-1), tokens, mask) - expected).abs().max() > 1e-3
    if count > 1:
        changed[1] = unit(DIM)
        assert (predict(tower, fiser, image, changed, mask) - expected).abs().max() > 1e-3


@torch.inference_mode()
def test_order_and_padding_of_words_change_nothing(fiser):
    image_tokens, tokens, mask = torch.randn(2, 4, 24), unit(6, DIM), torch.arange(6) < 4
    expected = fiser(image_tokens, tokens, mask)
    order = torch.tensor([5, 2, 0, 4, 3, 1])
    torch.testing.assert_close(fiser(image_tokens, tokens[order], mask[order]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(fiser(image_tokens, tokens[:4], mask[:4]), expected, atol=1e-6, rtol=0)
    each = fiser(image_tokens, tokens.expand(2, -1, -1), mask.expand(2, -1))
    torch.testing.assert_close(each, expected, atol=1e-6, rtol=0)


def test_hide_tokens_hides_one_in_each_image():
    shown = hide_tokens(torch.tensor([True, True, True, False]), torch.tensor([1, NOTHING_HIDDEN, 3]))
    assert shown.int().tolist() == [[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_gradients_flow_into_seve_and_every_part_of_the_module(tower, fiser):
    tokens = unit(5, DIM)
    hidden = torch.tensor([2, NOTHING_HIDDEN])
    predictions = predict(tower, fiser, torch.rand(2, 3, 32, 32), tokens, hide_tokens(torch.ones(5) > 0, hidden))
    logits = PanopticHead(DIM, 8).class_logits(predictions, tokens[:, None], torch.ones(5, 1) > 0)[..., :-1]
    total, count = reconstruction_loss(logits, hidden)
    assert count == 1
    total.backward()
    for parameter in (*tower.seve.parameters(), *fiser.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_only_images_that_hide_a_word_count():
    logits = torch.randn(3, 4)
    total, count = reconstruction_loss(logits, torch.tensor([1, NOTHING_HIDDEN, 3]))
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([1, 3]), reduction='sum')
    torch.testing.assert_close(total, expected)
    assert count == 2
    total, count = reconstruction_loss(logits, torch.full((3,), NOTHING_HIDDEN))
    assert (total.item(), count.item()) == (0.0, 0)


def test_loss_falls_where_image_and_remaining_words_tell_the_hidden_one(fiser):
    words, looks = unit(6, DIM), torch.randn(6, 24)
    optimizer = torch.optim.Adam(fiser.parameters(), 3e-3)
    losses, hits = [], []
    for _ in range(120):
        hidden = torch.randint(0, 6, (16,))
        image_tokens = torch.stack([looks[hidden], *torch.randn(3, 16, 24)], 1)
        prediction = fiser(image_tokens, words, hide_tokens(torch.ones(6) > 0, hidden))
        logits = 10 * prediction @ words.T
        total, count = reconstruction_loss(logits, hidden)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append(total.item() / count.item())
        hits.append((logits.argmax(-1) == hidden).float().mean().item())
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert sum(hits[-10:]) / 10 > 0.9


def test_words_that_are_always_there_are_hidden_equally_often():
    cycle = HiddenWordCycle(5)
    present = torch.ones(3, 5) > 0
    chosen = []
    for _ in range(7):
        chosen += cycle.choose(present).tolist()
        counts = [chosen.count(word) for word in range(5)]
        assert max(counts) - min(counts) <= 1
        assert cycle.counts.tolist() == counts


def test_a_rare_word_catches_up_and_images_without_words_hide_nothing():
    cycle = HiddenWordCycle(3)
    common = torch.tensor([[True, True, False]])
    for _ in range(4):
        cycle.choose(common)
    assert cycle.counts.tolist() == [2, 2, 0]
    nothing = torch.zeros(1, 3) > 0
    everything = torch.ones(2, 3) > 0
    assert cycle.choose(torch.cat([everything, nothing, common])).tolist() == [2, 2, NOTHING_HIDDEN, 0]
    assert cycle.counts.tolist() == [3, 2, 2]


def test_one_word_for_a_whole_batch():
    cycle = HiddenWordCycle(3)
    present = torch.tensor([[True, False, False], [False, False, True]])
    chosen = [cycle.choose(present.any(0, keepdim=True)).item() for _ in range(4)]
    assert chosen == [0, 2, 0, 2]


def test_a_resumed_cycle_chooses_as_an_uninterrupted_one():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(4, 6, generator=generator) < 0.4 for _ in range(10)]
    straight, first, resumed = HiddenWordCycle(6), HiddenWordCycle(6), HiddenWordCycle(6)
    expected = [straight.choose(present).tolist() for present in batches]
    for present in batches[:5]:
        first.choose(present)
    resumed.load_state_dict(first.state_dict())
    assert [resumed.choose(present).tolist() for present in batches[5:]] == expected[5:]

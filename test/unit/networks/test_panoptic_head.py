import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fisa_ros.core.placement import Placement
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.networks.panoptic_head import PanopticHead, ThresholdTensors, merge


def thresholds(score=0.3, mask=0.5, overlap=0.6, trust=0.5, shown_hw=(1.0, 1.0)):
    return ThresholdTensors.of(torch.from_numpy(Thresholds(score, mask, overlap, trust).placed(shown_hw).array()))


def masks(*rows):
    """Read masks of one row of pixels: '#' is inside (0.9), '+' just inside (0.6), '.' outside (0.1)."""
    value = {'#': 0.9, '+': 0.6, '.': 0.1}
    return torch.tensor([[[value[pixel] for pixel in row]] for row in rows])


CASES = [
    ('one thing', ('##..',), [0], [0.8], [True], [1, 1, 0, 0]),
    ('too low a score', ('##..',), [0], [0.2], [True], [0, 0, 0, 0]),
    ('raw mask probability decides, not its product with the score', ('++..',), [0], [0.4], [True], [1, 1, 0, 0]),
    ('better one in front', ('###.', '..##'), [0, 1], [0.9, 0.5], [True, True], [1, 1, 1, 2]),
    ('stuff of one class is fused', ('#...', '...#'), [3, 3], [0.9, 0.5], [False, False], [1, 0, 0, 1]),
    ('things of one class are not', ('#...', '...#'), [3, 3], [0.9, 0.5], [True, True], [1, 0, 0, 2]),
    ('stuff, thing, stuff, thing: ids never meet', ('#...', '.#..', '..#.', '...#'), [3, 1, 3, 1], [0.9] * 4,
     [False, True, False, True], [1, 2, 1, 4]),
    ('double of a thing is refused', ('####', '####'), [0, 0], [0.9, 0.8], [True, True], [1, 1, 1, 1]),
]  # fmt: skip


@pytest.mark.parametrize(
    ('rows', 'classes', 'scores', 'things', 'expected'), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_merge(rows, classes, scores, things, expected):
    low_overlap = thresholds(overlap=0.5)
    output = merge(masks(*rows), torch.tensor(classes), torch.tensor(scores), torch.tensor(things), low_overlap)
    assert output.query_map.tolist() == [expected]
    assert output.query_map.dtype == torch.int32


def test_refused_mask_frees_its_pixels():
    # The first is in front on one of its four pixels only; once it is refused, the second has that pixel too.
    probability = torch.tensor([[[0.6, 0.6, 0.6, 0.9]], [[0.9, 0.9, 0.9, 0.6]]])
    output = merge(probability, torch.tensor([0, 1]), torch.tensor([0.8, 0.8]), torch.ones(2) > 0, thresholds())
    assert output.query_map.tolist() == [[2, 2, 2, 2]]


def test_fused_stuff_scores_the_mean_by_area():
    output = merge(
        masks('###.', '...#'), torch.tensor([0, 0]), torch.tensor([0.8, 0.4]), torch.zeros(2) > 0, thresholds()
    )
    assert output.score[0].item() == pytest.approx(0.7)


def spilling_masks():
    """Two masks of which the image, rows 0 to 8 of 16, shows a part."""
    floor, other = torch.full((2, 16, 16), 0.01)
    floor[4:9] = 0.95
    other[9:] = 0.95
    return floor, other


def merged(masks, classes, scores, things, shown_rows, limits):
    """Merge with padding below, and compare with what that gives where it is cut away first."""
    probability, whole = torch.stack(masks), thresholds(*limits)
    answers = torch.tensor(classes), torch.tensor(scores), torch.tensor(things)
    placed = merge(probability, *answers, thresholds(*limits, shown_hw=(shown_rows / 16, 1.0)))
    cropped = merge(probability[:, :shown_rows], *answers, whole)
    assert not placed.query_map[shown_rows:].any()
    assert torch.equal(placed.query_map[:shown_rows], cropped.query_map)
    assert torch.equal(placed.score, cropped.score)
    mixed = merge(probability, *answers, whole)
    is_alike = torch.equal(mixed.query_map[:shown_rows], cropped.query_map) and torch.equal(mixed.score, cropped.score)
    assert not is_alike, 'padding changes nothing here'
    return placed


def test_padding_refuses_no_mask():
    floor, other = spilling_masks()
    floor[9:13] = 0.9
    other[0, :10] = 0.95
    placed = merged([floor, other], [0, 1], [0.6, 0.9], [False, True], 9, (0.2, 0.5, 0.7))
    # The padding has nearly half of the floor, which would lose all of that to the other mask.
    assert (placed.query_map == 1).sum() == 5 * 16
    assert (placed.query_map == 2).sum() == 10


def test_padding_has_no_part_in_a_fused_score():
    floor, other = spilling_masks()
    placed = merged([floor, other], [0, 0], [0.9, 0.25], [False, False], 9, (0.2, 0.5, 0.7))
    assert placed.score[0].item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ('input_size', 'num_cells'), [(64, 32), (320, 160), (640, 640), (640, 160), (1024, 256), (97, 61)]
)
def test_cells_count_where_the_placement_shows_something(input_size, num_cells):
    full, one, thing = torch.ones(1, num_cells, 1), torch.ones(1), torch.ones(1) > 0
    for content in range(1, input_size + 1):
        placement = Placement((1, 1), (content, input_size), (input_size, input_size))
        for shape, shown_hw in (((1, num_cells, 1), placement.shown_hw), ((1, 1, num_cells), placement.shown_hw[::-1])):
            cells = merge(full.reshape(shape), torch.zeros(1).long(), one, thing, thresholds(shown_hw=shown_hw))
            expected = placement.shown(np.ones((num_cells, 1))).size
            assert cells.query_map.flatten().tolist() == [1] * expected + [0] * (num_cells - expected)


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = PanopticHead(8, 4)
    with torch.no_grad():
        head.void_embedding.copy_(F.one_hot(torch.tensor(7), 8).float())
    return head


def axes(*indices):
    return F.one_hot(torch.tensor(indices), 8).float()


@torch.inference_mode()
def test_best_synonym_counts_and_padding_changes_nothing(head):
    embeddings = axes(1, 2)
    texts = torch.stack([axes(0, 1), axes(2, 2)])
    known = torch.tensor([[True, True], [True, False]])
    logits = head.class_logits(embeddings, texts, known)
    assert logits.argmax(-1).tolist() == [0, 1]
    padded = F.pad(texts, (0, 0, 0, 3))
    torch.testing.assert_close(head.class_logits(embeddings, padded, F.pad(known, (0, 3))), logits, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_zero_padding_is_masked_not_compared(head):
    # The cosine with the only real name is -1; a zero row would score 0 and win.
    logits = head.class_logits(axes(1), F.pad(-axes(1)[None], (0, 0, 0, 1)), torch.tensor([[True, False]]))
    assert logits[0, 0].item() == pytest.approx(-head.logit_scale.exp().item())


@torch.inference_mode()
def test_permuting_words_permutes_classes(head):
    embeddings = F.normalize(torch.randn(5, 8), dim=-1)
    texts = F.normalize(torch.randn(6, 1, 8), dim=-1)
    known = torch.ones(6, 1, dtype=torch.bool)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    expected = head.class_logits(embeddings, texts, known)[:, [*order.tolist(), 6]]
    torch.testing.assert_close(head.class_logits(embeddings, texts[order], known), expected, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_void_wins_over_every_threshold(head):
    _, score = head.classify(axes(7, 0), torch.ones(2), axes(0)[:, None], torch.ones(1, 1) > 0, torch.tensor(0.5))
    assert score[0] == 0
    assert score[1] > 0.99


@torch.inference_mode()
@pytest.mark.parametrize(
    ('objectness', 'trust', 'expected'), [(1.0, 0.5, 1.0), (0.2, 0.0, 0.2), (0.2, 0.5, 0.6), (0.2, 1.0, 1.0)]
)
def test_a_sure_classifier_softens_objectness(head, objectness, trust, expected):
    _, score = head.classify(
        axes(0), torch.tensor([objectness]), axes(0)[:, None], torch.ones(1, 1) > 0, torch.tensor(trust)
    )
    assert score.item() == pytest.approx(expected, abs=1e-4)


@torch.inference_mode()
def test_temperature_softens_scores_and_changes_no_class(head):
    embeddings, texts = F.normalize(torch.randn(6, 8), dim=-1), F.normalize(torch.randn(4, 2, 8), dim=-1)
    known = torch.ones(4, 2) > 0
    index, score = head.classify(embeddings, torch.ones(6), texts, known, torch.tensor(0.5))
    softened = PanopticHead(8, 4, temperature=2.5)
    softened.load_state_dict(head.state_dict())
    soft_index, soft_score = softened.classify(embeddings, torch.ones(6), texts, known, torch.tensor(0.5))
    assert torch.equal(soft_index, index)
    probability = (head.class_logits(embeddings, texts, known) / 2.5).softmax(-1)
    kept = probability[:, :-1].amax(-1) > probability[:, -1]
    torch.testing.assert_close(soft_score, torch.where(kept, probability[:, :-1].amax(-1), 0.0))
    assert torch.equal(soft_score > 0, score > 0)

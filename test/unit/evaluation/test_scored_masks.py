import numpy as np
from pycocotools import mask as mask_coding
import pytest

from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.evaluation.scored_masks import ScoredMasks, class_scores


def scored(logits, scores, size_hw):
    return ScoredMasks(logits, scores, STRETCH.place(size_hw, (1, 1)))


@pytest.mark.parametrize('size_hw', [(30, 44), (5, 7), (3, 3), (1, 9)])
def test_each_pixel_gets_its_best_class_as_in_mask2former(size_hw):
    torch = pytest.importorskip('torch')
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 4, (6, 5, 7)).astype(np.float32)
    scores = generator.random((6, 4)).astype(np.float32)
    scaled = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size_hw, mode='bilinear')[0]
    sums = torch.einsum('nk,nhw->khw', torch.from_numpy(scores), scaled.sigmoid())
    found = scored(logits, scores, size_hw).class_map()
    np.testing.assert_array_equal(found, sums.argmax(0).numpy())
    assert found.shape == size_hw


@pytest.mark.parametrize('size_hw', [(61, 118), (33, 40), (7, 5), (200, 50)])
@pytest.mark.parametrize('sharpness', [0.3, 3.0, 40.0])
def test_what_is_left_out_changes_no_pixel(size_hw, sharpness):
    """Masks of objects are 0 nearly everywhere, and few classes can win anywhere."""
    torch = pytest.importorskip('torch')
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:33, :40]
    centres, radii = generator.uniform(0, 40, (30, 2)), generator.uniform(1, 12, 30)
    distance = np.stack([np.hypot(y - cy, x - cx) for cy, cx in centres])
    logits = (sharpness * (radii[:, None, None] - distance)).astype(np.float32)
    scores = (generator.dirichlet(np.full(20, 0.05), 30) * generator.random((30, 1))).astype(np.float32)
    scaled = torch.nn.functional.interpolate(torch.from_numpy(logits)[None].double(), size_hw, mode='bilinear')[0]
    sums = torch.einsum('nk,nhw->khw', torch.from_numpy(scores).double(), scaled.clamp(min=-80).sigmoid())
    best, second = sums.topk(2, dim=0).values
    is_clear = ((best - second) > 1e-5 * best).numpy()
    assert is_clear.mean() > 0.99
    found = scored(logits, scores, size_hw).class_map()
    np.testing.assert_array_equal(found[is_clear], sums.argmax(0).numpy()[is_clear])
    assert len(np.unique(found)) > 5


def test_logits_as_low_as_they_come():
    found = scored(np.full((2, 2, 2), -1e4, np.float32), np.eye(2, dtype=np.float32), (4, 4)).class_map()
    assert (found == 0).all()


def test_without_masks_no_pixel_has_a_class():
    masks = scored(np.zeros((0, 4, 4), np.float32), np.zeros((0, 3), np.float32), (2, 5))
    assert (masks.class_map() == -1).all()
    assert masks.instances({0: 1}) == []


def test_instances_by_hand():
    logits = np.full((3, 2, 3), -9.0, np.float32)
    # A column of two sizes of certainty, a corner, and nothing.
    logits[0, :, 0] = 9.0, np.log(3)
    logits[1, 0, 2] = 9.0
    scores = np.array([[0.2, 0.6, 0.1], [0.0, 0.3, 0.7], [0.9, 0.9, 0.9]], np.float32)
    instances = scored(logits, scores, (8, 12)).instances({0: 10, 1: 11})
    mean = (1 / (1 + np.exp(-9.0)) + 0.75) / 2
    sure = 1 / (1 + np.exp(-9.0))
    # Row 2 is of no class that counts, and a mask without a pixel is no instance.
    expected = [(11, 0.6 * mean), (11, 0.3 * sure), (10, 0.2 * mean), (10, 0.0)]
    assert [entry.class_id for entry in instances] == [class_id for class_id, _ in expected]
    assert [entry.score for entry in instances] == pytest.approx([score for _, score in expected])
    # Left, top, width, height: a cell is 4x4 pixels.
    boxes = [mask_coding.toBbox(entry.code).tolist() for entry in instances]
    assert boxes == [[0, 0, 4, 8], [8, 0, 4, 4], [0, 0, 4, 8], [8, 0, 4, 4]]
    assert 16 < mask_coding.area(instances[0].code) < 32


def test_only_the_surest_hundred_are_instances():
    scores = np.linspace(0.1, 1, 300, dtype=np.float32).reshape(3, 100)
    instances = scored(np.full((3, 2, 2), 5.0, np.float32), scores, (2, 2)).instances(dict.fromkeys(range(100), 1))
    assert len(instances) == 100
    assert min(entry.score for entry in instances) > 0.6


def test_scores_are_those_of_the_head():
    torch = pytest.importorskip('torch')
    from fisa_ros.networks.panoptic_head import PanopticHead

    torch.manual_seed(0)
    head = PanopticHead(8, 4, temperature=2.5)
    normalize = torch.nn.functional.normalize
    embeddings, texts = normalize(torch.randn(20, 8), dim=-1), normalize(torch.randn(3, 2, 8), dim=-1)
    known, objectness = torch.ones(3, 2) > 0, torch.rand(20)
    with torch.inference_mode():
        probabilities = (head.class_logits(embeddings, texts, known) / head.temperature).softmax(-1).numpy()
        index, score = head.classify(embeddings, objectness, texts, known, torch.tensor(0.3))
    scores = class_scores(probabilities, objectness.numpy(), 0.3)
    # A mask that is rather void has the score 0 in the head; here it keeps those of its classes.
    is_kept = score.numpy() > 0
    np.testing.assert_array_equal(is_kept, probabilities.argmax(axis=1) < 3)
    assert 5 < is_kept.sum() < 20
    np.testing.assert_array_equal(scores.argmax(axis=1), index.numpy())
    np.testing.assert_allclose(scores.max(axis=1)[is_kept], score.numpy()[is_kept], rtol=1e-5)
    # All classes of a mask are scaled alike.
    factors = scores / probabilities[:, :-1]
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-5)


def test_padding_is_cut_off_before_pixels_are_read():
    torch = pytest.importorskip('torch')
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 4, (6, 16, 16)).astype(np.float32)
    scores = generator.random((6, 4)).astype(np.float32)
    # A pixel of the image is one of the input.
    masks = ScoredMasks(logits, scores, Resize('pad').place((40, 64), (64, 64)))
    scaled = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (64, 64), mode='bilinear')[0, :, :40]
    sums = torch.einsum('nk,nhw->khw', torch.from_numpy(scores), scaled.sigmoid())
    np.testing.assert_array_equal(masks.class_map(), sums.argmax(0).numpy())
    instances = masks.instances({0: 0, 1: 1, 2: 2, 3: 3})
    areas = (scaled > 0).sum((1, 2)).tolist()
    assert {int(mask_coding.area(entry.code)) for entry in instances} == set(areas)
    sureness = [(1 / (1 + np.exp(-entry[entry > 0]))).mean() for entry in logits[:, :10]]
    assert instances[0].score == pytest.approx(scores.max() * sureness[scores.max(1).argmax()])


def test_a_mask_in_the_padding_is_no_instance():
    logits = np.full((1, 4, 4), -9.0, np.float32)
    logits[0, 3] = 9.0
    masks = ScoredMasks(logits, np.ones((1, 1), np.float32), Resize('pad').place((8, 16), (16, 16)))
    assert masks.instances({0: 1}) == []

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.networks.build import build_network
from fisa_ros.networks.mask_generator import MaskProposals
from fisa_ros.training.adapt_site import open_for_adapting
from fisa_ros.training.frozen_views import vocabulary_tensors
from fisa_ros.training.pseudo_masks import SureRule, agreement, name_masks

from .small_fisa import SIZE, TINY_CLASSIFIER, TINY_GENERATOR


def test_a_class_is_agreed_on_where_both_answers_name_it():
    first = torch.tensor([[0.5, 0.1, 0.4], [0.5, 0.3, 0.2], [0.4, 0.1, 0.5], [0.4, 0.1, 0.5]])
    second = torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.6, 0.1], [0.4, 0.1, 0.5], [0.7, 0.1, 0.2]])
    score, row, is_agreed = agreement(first, second)
    # Of two classes that both answers find likely, the same one must be the best; void is none.
    assert is_agreed.tolist() == [True, False, False, False]
    assert row.tolist()[0] == 0
    torch.testing.assert_close(score, torch.tensor([0.4, 0.3, 0.4, 0.4]))


class Boxes(nn.Module):
    """A generator of given masks: a box (x0, y0, x1, y1) of cells each."""

    def __init__(self, *boxes):
        super().__init__()
        self.logits = torch.full((1, len(boxes), SIZE // 4, SIZE // 4), -8.0)
        for row, (x0, y0, x1, y1) in enumerate(boxes):
            self.logits[0, row, y0:y1, x0:x1] = 8.0

    def forward(self, image):
        return MaskProposals(self.logits, torch.ones(1, self.logits.shape[1]))


@pytest.mark.parametrize(
    ('resize', 'boxes_xyxy'),
    [
        # The image is the upper half of the input, at its own size: the second mask reaches into the padding, the third
        # is nowhere else.
        (Resize('pad'), [(8, 4, 24, 20), (32, 16, 48, 32)]),
        # It is the whole input, two rows of which are one of the image.
        (STRETCH, [(8, 2, 24, 10), (32, 8, 48, 20), (0, 22, 16, 28)]),
    ],
)
def test_masks_of_names_lie_where_the_generator_saw_them(tmp_path, resize, boxes_xyxy):
    image = np.random.default_rng(0).integers(0, 256, (SIZE // 2, SIZE, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    site = open_for_adapting(tmp_path, None, ['ball'], VocabularyRequest(('floor', 'chair'), ('floor',)))
    torch.manual_seed(0)
    network = build_network(TINY_GENERATOR, TINY_CLASSIFIER).eval()
    network.generator = Boxes((2, 1, 6, 5), (8, 4, 12, 10), (0, 11, 4, 14))
    with torch.no_grad():
        seen = network.tower.image_embedding(torch.rand(2, 3, SIZE, SIZE)).mean(0)
        network.head.void_embedding.copy_(-seen)

    class Encoder:
        """Knows balls alone, and takes everything for one."""

        def encode(self, sentences):
            rows = [seen if 'ball' in sentence else -seen for sentence in sentences]
            return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    together = vocabulary_tensors(site.classes.vocabulary, Encoder(), ('{}',))
    rule = SureRule(min_score=0.5, min_margin=0.0, min_objectness=0.5)
    found = name_masks(network, site.folder, site.classes, together, site.allowed, (SIZE, SIZE), rule, resize)
    boxes = []
    for mask in found.dataset.masks[0]:
        pixels = mask.pixels()
        assert pixels.shape == (SIZE // 2, SIZE)
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    assert sorted(boxes) == sorted(boxes_xyxy)

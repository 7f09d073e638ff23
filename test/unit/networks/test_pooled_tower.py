"""Mask pooling around a small ConvNeXt of open_clip, with random weights."""

import open_clip
from open_clip.model import _build_vision_tower
import pytest
import torch
import torch.nn.functional as F

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.build import build_network, open_clip_tower
from fisa_ros.networks.pooled_tower import PooledImageTower

SIZE, DIM = 128, 32
VISION = {'timm_model_name': 'convnext_atto', 'timm_pool': '', 'timm_proj': 'mlp', 'image_size': SIZE}
TOKENS = torch.zeros(4, DIM), torch.zeros(4, dtype=torch.bool)


@pytest.fixture(scope='module')
def tower():
    torch.manual_seed(0)
    return PooledImageTower(_build_vision_tower(DIM, VISION), DIM).eval()


@pytest.fixture(scope='module')
def image():
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_a_mask_gets_the_plain_average_of_the_cells_that_it_covers(tower, image):
    features = tower.visual.trunk.forward_features((image - tower.mean) / tower.std)
    assert features.shape[-2:] == (4, 4)
    # The left half; all of one cell and half of the next one.
    masks = torch.full((1, 2, 16, 16), -30.0)
    masks[0, 0, :, :8] = 30.0
    masks[0, 1, 4:8, 4:10] = 30.0
    averages = features[0, :, :, :2].mean((1, 2)), (features[0, :, 1, 1] + 0.5 * features[0, :, 1, 2]) / 1.5
    expected = [head(tower, average) for average in averages]
    embeddings = tower(image, masks, *TOKENS)
    assert embeddings.shape == (1, 2, DIM)
    torch.testing.assert_close(embeddings[0], torch.stack(expected), atol=1e-4, rtol=0)
    assert (embeddings[0, 0] - embeddings[0, 1]).abs().max() > 1e-3


def head(tower, average):
    """Send `(C,)` through the whole of CLIP's head, as an image of one pixel."""
    return F.normalize(tower.visual.head(tower.visual.trunk.head(average[None, :, None, None])), dim=-1).flatten()


@torch.inference_mode()
def test_an_empty_mask_gets_the_average_of_the_image_which_is_clips_embedding(tower, image):
    masks = torch.stack([torch.full((16, 16), -30.0), torch.full((16, 16), 30.0)])[None]
    embeddings = tower(image, masks, *TOKENS)[0]
    assert embeddings.isfinite().all()
    torch.testing.assert_close(embeddings, tower.image_embedding(image).expand(2, -1), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_words_have_no_part_in_it(tower, image):
    masks = torch.randn(1, 3, 16, 16)
    words = F.normalize(torch.randn(4, DIM), dim=-1), torch.ones(4, dtype=torch.bool)
    assert torch.equal(tower(image, masks, *TOKENS), tower(image, masks, *words))


def test_only_a_convnext_can_be_pooled():
    tower = open_clip_tower(model='ViT-B-16', image_size=32, seve_blocks=0)
    with pytest.raises(ManifestError, match='must be a ConvNeXt of open_clip, got VisionTransformer'):
        PooledImageTower(tower.visual, 512)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'small', {'embed_dim': DIM, 'vision_cfg': VISION})
    return build_network(
        {'type': 'tiny', 'image_size': 64, 'channels': [8, 16, 32], 'blocks': [0, 0, 0], 'heads': 2},
        {'type': 'pooled', 'model': 'small', 'image_size': SIZE, 'merge_size': 16},
    )


def test_void_of_a_pooled_network_is_no_direction(network):
    assert torch.equal(network.head.void_embedding, torch.zeros(DIM))
    with pytest.raises(ManifestError, match='only the tower of FISA can be trained'):
        _ = network.trainable_tower


@torch.inference_mode()
def test_of_many_words_that_fit_alike_the_one_that_fits_a_little_better_is_found(network):
    region = F.one_hot(torch.tensor([0]), DIM).float()
    words = torch.zeros(133, 1, DIM)
    words[:, 0, 0], words[7, 0, 0] = 0.15, 0.25
    there = torch.ones(133, 1, dtype=torch.bool)
    class_index, score = network.head.classify(region, torch.ones(1), words, there, torch.tensor(0.5))
    assert class_index.item() == 7
    assert score.item() > 0.9
    # What the generator takes for no object is none, though no word is void.
    assert network.head.classify(region, torch.zeros(1), words, there, torch.tensor(0.0))[1].item() == 0

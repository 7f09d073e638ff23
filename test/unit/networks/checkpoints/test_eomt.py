"""EoMT from both forms that it is published in."""

import json
import logging
import math
import re

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

from fisa_ros.core.errors import WeightsError
from fisa_ros.core.placement import Resize
from fisa_ros.networks.build import build_generator
from fisa_ros.networks.checkpoints.eomt import eomt_tensors
from fisa_ros.networks.checkpoints.eomt_native import eomt_native_tensors
from fisa_ros.networks.checkpoints.transformers_files import tell_of_scaling
from fisa_ros.pipeline.image_scaling import place_image

from .small_checkpoints import EOMT, NativeEomt, eomt, scramble


@pytest.fixture
def generator():
    torch.manual_seed(1)
    return build_generator({'type': 'eomt', 'config': EOMT}).eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def test_what_transformers_saved_gives_what_it_gave(generator, images, tmp_path):
    original = eomt()
    original.save_pretrained(tmp_path)
    generator.load_state_dict(eomt_tensors(tmp_path, generator))
    saved = {f'model.{name}': tensor for name, tensor in original.state_dict().items()}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in generator.state_dict().items())
    output = original((images - generator.mean) / generator.std)
    proposals = generator(images)
    assert torch.equal(proposals.mask_logits, output.masks_queries_logits)
    no_object = output.class_queries_logits.softmax(-1)[..., -1]
    torch.testing.assert_close(proposals.objectness, 1 - no_object, atol=1e-6, rtol=0)
    assert proposals.objectness.std() > 1e-3, 'numbers that say something'


@pytest.mark.parametrize('probability', [0.0, 0.01, 1.0, math.nan])
def test_masked_attention_is_told_of_and_left_out(generator, tmp_path, caplog, probability):
    """A published checkpoint must load: ones are also what transformers fills in where there was nothing."""
    original, native = eomt(), NativeEomt().checkpoint()
    original.attn_mask_probs[-1] = probability
    original.save_pretrained(tmp_path)
    native['network.attn_mask_probs'] = original.attn_mask_probs
    torch.save(native, tmp_path / 'native.bin')
    for read, name in ((eomt_tensors, 'model.safetensors'), (eomt_native_tensors, 'native.bin')):
        caplog.clear()
        assert set(read(tmp_path / name, generator)) == set(generator.state_dict())
        text = f'{name} says to mask attention with the probabilities 0, {probability:g}, which is ignored: published'
        assert (text in caplog.text) == (probability != 0)


@torch.inference_mode()
def test_what_the_authors_saved_gives_what_they_had(generator, images, tmp_path):
    native = NativeEomt()
    torch.save(native.checkpoint(), tmp_path / 'pytorch_model.bin')
    generator.load_state_dict(eomt_native_tensors(tmp_path, generator))
    masks, classes = native(images)
    proposals = generator(images)
    torch.testing.assert_close(proposals.mask_logits, masks, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(proposals.objectness, 1 - classes.softmax(-1)[..., -1], atol=1e-5, rtol=0)


def compiled(name):
    return name.replace('blocks.', 'blocks._orig_mod.').replace('network.q', 'network._orig_mod.q')


@pytest.mark.parametrize(
    'form',
    [
        lambda tensors: {'state_dict': tensors, 'epoch': 3},
        lambda tensors: {compiled(name): tensor for name, tensor in tensors.items()},
        lambda tensors: {name.removeprefix('network.'): tensor for name, tensor in tensors.items()},
    ],
    ids=['lightning', 'compiled', 'bare'],
)
def test_both_forms_of_the_same_weights_are_the_same(generator, tmp_path, form):
    native = tmp_path / 'native' / 'model.ckpt'
    native.parent.mkdir()
    torch.save(form(NativeEomt().checkpoint()), native)
    tensors = eomt_native_tensors(native, generator)
    generator.load_state_dict(tensors)
    of_transformers = EomtForUniversalSegmentation(EomtConfig(**EOMT))
    of_transformers.load_state_dict(generator.model.state_dict(), strict=False)
    of_transformers.attn_mask_probs.zero_()
    of_transformers.save_pretrained(tmp_path / 'transformers')
    again = eomt_tensors(tmp_path / 'transformers', generator)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_exactly(generator, tmp_path, dtype):
    original = eomt().to(dtype)
    original.save_pretrained(tmp_path)
    tensors = eomt_tensors(tmp_path, generator)
    saved = original.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert all(torch.equal(tensor, saved[name.removeprefix('model.')].float()) for name, tensor in tensors.items())


def write_config(folder, **changes):
    path = folder / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'num_attention_heads': 4}, 'num_attention_heads is 4, the manifest says 2'),
        ({'layer_norm_eps': 1e-5}, 'layer_norm_eps is 1e-05, the manifest says 1e-06'),
        ({'image_size': 128, 'num_blocks': 1}, 'image_size is 128, .* 64; num_blocks is 1, the manifest says 2'),
        ({'id2label': {str(i): f'c{i}' for i in range(9)}}, 'num_labels is 9, the manifest says 3'),
        ({'model_type': 'eomt_dinov3'}, "wrong kind of model: 'eomt_dinov3' instead of 'eomt'"),
        ({'num_queries': 'many'}, r'config\.json of .* cannot be read: .*num_queries'),
    ],
)
def test_settings_of_another_network_are_named(generator, tmp_path, changes, text):
    eomt().save_pretrained(tmp_path)
    write_config(tmp_path, **changes)
    with pytest.raises(WeightsError, match=text):
        eomt_tensors(tmp_path, generator)
    with pytest.raises(WeightsError, match=text):
        eomt_tensors(tmp_path / 'model.safetensors', generator)


def test_settings_of_training_do_not_matter(generator, tmp_path):
    eomt().save_pretrained(tmp_path)
    write_config(tmp_path, no_object_weight=0.3, layerscale_value=1e-5, drop_path_rate=0.1, transformers_version='4.0')
    assert set(eomt_tensors(tmp_path, generator)) == set(generator.state_dict())


@pytest.mark.parametrize('content', ['{', '[]'])
def test_a_broken_config_is_named(generator, tmp_path, content):
    eomt().save_pretrained(tmp_path)
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(WeightsError, match=r'config\.json (cannot be read|must hold a mapping)'):
        eomt_tensors(tmp_path, generator)


def test_a_file_without_settings_is_taken_by_its_shapes(generator, tmp_path):
    save_file(eomt().state_dict(), tmp_path / 'alone.safetensors')
    assert set(eomt_tensors(tmp_path / 'alone.safetensors', generator)) == set(generator.state_dict())


def test_the_block_that_takes_in_the_queries_is_checked_without_settings(generator, tmp_path):
    """No shape of a weight shows it."""
    save_file(eomt({**EOMT, 'num_blocks': 3}).state_dict(), tmp_path / 'alone.safetensors')
    with pytest.raises(WeightsError, match='num_blocks is 3, the manifest says 2'):
        eomt_tensors(tmp_path / 'alone.safetensors', generator)
    torch.save(NativeEomt({**EOMT, 'num_blocks': 1}).checkpoint(), tmp_path / 'pytorch_model.bin')
    with pytest.raises(WeightsError, match='num_blocks is 1, the manifest says 2'):
        eomt_native_tensors(tmp_path / 'pytorch_model.bin', generator)


def test_settings_beside_what_the_authors_saved_are_compared(generator, tmp_path):
    torch.save(NativeEomt().checkpoint(), tmp_path / 'pytorch_model.bin')
    settings = {
        'model_type': 'eomt', 'backbone': 'vit_large_patch14_reg4_dinov2', 'image_size': 64, 'patch_size': 16,
        'num_queries': 6, 'num_blocks': 2, 'num_labels': 3,
    }  # fmt: skip
    (tmp_path / 'config.json').write_text(json.dumps(settings))
    assert set(eomt_native_tensors(tmp_path, generator)) == set(generator.state_dict())
    (tmp_path / 'config.json').write_text(json.dumps(settings | {'num_labels': 80, 'image_size': 1280}))
    with pytest.raises(WeightsError, match=r'image_size is 1280, the manifest says 64; num_labels is 80, .* says 3'):
        eomt_native_tensors(tmp_path, generator)


def test_another_normalisation_is_named(generator, tmp_path):
    eomt().save_pretrained(tmp_path)
    path = tmp_path / 'preprocessor_config.json'
    path.write_text(json.dumps({'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.5, 0.5, 0.5]}))
    with pytest.raises(WeightsError, match=r'image_std is \[0\.5, .*\], the network has \[0\.229, 0\.224, 0\.225\]'):
        eomt_tensors(tmp_path, generator)
    path.write_text(json.dumps({'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225]}))
    eomt_tensors(tmp_path, generator)
    native = NativeEomt().checkpoint()
    native['network.encoder.pixel_mean'] = torch.full((1, 3, 1, 1), 0.5)
    torch.save(native, tmp_path / 'native.bin')
    with pytest.raises(WeightsError, match=r'encoder\.pixel_mean is \[0\.5, 0\.5, 0\.5\], the network has \[0\.48'):
        eomt_native_tensors(tmp_path / 'native.bin', generator)


_EDGES = {'size': {'shortest_edge': 640, 'longest_edge': 641}}
_SIDES = {'size': {'height': 640, 'width': 640}}


@pytest.mark.parametrize(
    ('kind', 'settings', 'text'),
    [
        ('stretch', {'do_pad': True, **_EDGES},
         r'keep their proportions \(size.shortest_edge 640, size.longest_edge 641, do_pad\), .*: set resize: pad$'),
        ('stretch', {'size': {'shortest_edge': 640, 'longest_edge': None}},
         r'made for windows cut out of an image \(size.shortest_edge 640\), which this package does not cut'),
        ('pad', {'do_pad': False, 'size': {'shortest_edge': 640}}, r'for windows .* \(size.shortest_edge 640\), which'),
        ('pad', {'do_split_image': True, 'do_pad': True, **_EDGES}, r'windows .* 641, do_split_image, do_pad\), which'),
        ('stretch', {'do_split_image': True}, r'for windows .* \(do_split_image\), which'),
        ('stretch', {'do_pad': True, 'size': {'shortest_edge': 640}},
         r'keep their proportions \(size.shortest_edge 640, do_pad\), .*: set resize: pad$'),
        ('pad', {'do_split_image': False, 'do_pad': True, 'size': {'shortest_edge': 640}}, None),
        ('stretch', {'do_pad': True}, r'keep their proportions \(do_pad\)'),
        ('pad', {'do_pad': True, **_EDGES}, None),
        ('pad', {'do_pad': False, **_SIDES},
         r'are stretched \(size.height 640, size.width 640\), .*: set resize: stretch$'),
        ('stretch', _SIDES, None),
        # Of an image that is stretched nothing is left to be padded.
        ('stretch', {'do_pad': True, **_SIDES}, None),
        ('pad', {'size': 640}, None),
        ('stretch', {'size': 640}, None),
        ('pad', {}, None),
        ('stretch', None, None),
    ],
)  # fmt: skip
def test_proportions_that_contradict_the_manifest_are_told_of(tmp_path, caplog, kind, settings, text):
    if settings is not None:
        (tmp_path / 'preprocessor_config.json').write_text(json.dumps(settings))
    tell_of_scaling(tmp_path, Resize(kind))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == (text is not None)
    assert text is None or re.search(text, told[0])


def test_the_differences_of_a_dinov3_are_refused(generator, tmp_path):
    tensors = {'network.encoder.backbone.layer.0.norm1.weight': torch.zeros(32), 'network.q.weight': torch.zeros(6, 32)}
    torch.save(tensors, tmp_path / 'delta.bin')
    with pytest.raises(WeightsError, match=r'EoMT on DINOv3, .* use one on DINOv2'):
        eomt_native_tensors(tmp_path / 'delta.bin', generator)


def test_unknown_names_stay_for_the_check_of_all_tensors(generator, tmp_path):
    tensors = NativeEomt().checkpoint() | {'network.other.weight': torch.zeros(2)}
    tensors['network.encoder.backbone.blocks.0.attn.qkv.bias'] = torch.zeros(7)
    tensors['network.encoder.backbone.blocks.1.attn.qkv.bias'] = torch.tensor(1.0)
    tensors['network.encoder.backbone.pos_embed'] = torch.zeros(2, 16, 32)
    torch.save(tensors, tmp_path / 'm.bin')
    found = eomt_native_tensors(tmp_path / 'm.bin', generator)
    assert {'model.other.weight', *(f'model.layers.{block}.attention.qkv.bias' for block in (0, 1))} <= set(found)
    assert found['model.embeddings.position_embeddings.weight'].shape == (2, 16, 32)


def test_scrambled_weights_are_all_different():
    values = [tensor.flatten()[0].item() for tensor in scramble(NativeEomt()).state_dict().values()]
    assert len(set(values)) >= len(values) - 2


@pytest.mark.parametrize('size_hw', [(480, 640), (1080, 1920), (640, 480), (427, 640), (77, 333), (600, 450)])
def test_padded_images_are_those_of_the_published_processor(size_hw):
    processor = EomtImageProcessor(size={'shortest_edge': 640, 'longest_edge': 640}, do_split_image=False, do_pad=True)
    coarse = np.random.default_rng(0).integers(40, 256, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    pixels = processor(image, return_tensors='pt', input_data_format='channels_last')['pixel_values'][0]
    mean, std = (torch.tensor(entry)[:, None, None] for entry in (processor.image_mean, processor.image_std))
    theirs = ((pixels * std + mean) * 255).permute(1, 2, 0).numpy()
    ours = place_image(image, Resize('pad').place(size_hw, (640, 640)))
    np.testing.assert_array_equal(theirs.max(2) > 1, ours.any(2))
    # Both shrink with antialiasing, by other filters.
    assert np.abs(theirs - ours).mean() < 0.3

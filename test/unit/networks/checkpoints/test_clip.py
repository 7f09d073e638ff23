"""CLIP as open_clip saves it, and inside the segmenters of detectron2."""

from copy import deepcopy
import json
import logging

import huggingface_hub
import open_clip
import pytest
from safetensors.torch import save_file
import torch
import torch.nn.functional as F

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.build import build_network
from fisa_ros.networks.checkpoints.clip import at_size_of, download_open_clip, open_clip_tensors, split_clip
from fisa_ros.networks.checkpoints.detectron2_clip import detectron2_clip_tensors

from .small_checkpoints import CLIPS, EOMT, clip, register_clips, scramble

GENERATOR = {'type': 'eomt', 'config': EOMT}


@pytest.fixture(scope='module', autouse=True)
def _configs():
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_clips(monkeypatch)
        yield


def fisa_tower(image_size):
    classifier = {'type': 'open_clip', 'model': 'tiny-vit', 'image_size': image_size, 'merge_size': 16}
    return build_network(GENERATOR, {**classifier, 'seve_blocks': 1, 'seve_width': 8, 'seve_heads': 2}).tower.eval()


def assert_holds(found, model):
    """Check that tensors are exactly those of a CLIP, tower by tower."""
    state = model.state_dict()
    visual = {name.removeprefix('visual.'): tensor for name, tensor in state.items() if name.startswith('visual.')}
    text = {name: tensor for name, tensor in state.items() if not name.startswith(('visual.', 'logit_scale'))}
    for tensors, expected in ((found.visual, visual), (found.text, text)):
        assert set(tensors) == set(expected)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert torch.equal(found.logit_scale, state['logit_scale'])


FORMS = {
    'plain': lambda state: state,
    'training': lambda state: {'epoch': 3, 'state_dict': {f'module.{key}': value for key, value in state.items()}},
    'compiled': lambda state: {f'module._orig_mod.{key}': value for key, value in state.items()},
    'custom text': lambda state: {
        key if key.startswith(('visual.', 'logit_')) else f'text.{key}': value for key, value in state.items()
    },
    'with constants': lambda state: (
        state
        | {'attn_mask': torch.zeros(77, 77), 'input_resolution': torch.tensor(32), 'vocab_size': torch.tensor(49408)}
    ),
    'scale in a row': lambda state: state | {'logit_scale': state['logit_scale'].reshape(1)},
}


@pytest.mark.parametrize('model', CLIPS)
@pytest.mark.parametrize('form', FORMS)
def test_every_form_of_open_clip_is_read(tmp_path, model, form):
    original = clip(model)
    path = tmp_path / 'open_clip_pytorch_model.bin'
    torch.save(FORMS[form](original.state_dict()), path)
    assert_holds(open_clip_tensors(path, model), original)


@pytest.mark.parametrize('model', CLIPS)
def test_the_custom_text_class_is_read(tmp_path, model):
    custom = scramble(open_clip.create_model(model, pretrained_image=False, force_custom_text=True))
    save_file(custom.state_dict(), tmp_path / 'open_clip_model.safetensors')
    plain = clip(model)
    state = {name.removeprefix('text.'): tensor for name, tensor in custom.state_dict().items()}
    plain.load_state_dict(state)
    assert_holds(open_clip_tensors(tmp_path, model), plain)


@pytest.mark.parametrize('size', [32, 48, 24])
@torch.inference_mode()
def test_positions_are_scaled_as_open_clip_does_it(tmp_path, caplog, size):
    path = tmp_path / 'open_clip_model.safetensors'
    save_file(clip('tiny-vit').state_dict(), path)
    original = open_clip.create_model('tiny-vit', pretrained=str(path), force_image_size=size).eval()
    tower = fisa_tower(size)
    with caplog.at_level(logging.INFO, 'fisa_ros.networks'):
        tower.visual.load_state_dict(at_size_of(tower, open_clip_tensors(path, 'tiny-vit').visual, path))
    tower.start_from_clip()
    expected = original.visual.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tower.visual.state_dict().items())
    scaled = [record.message for record in caplog.records if record.name == 'fisa_ros.networks']
    assert len(scaled) == (size != 32)
    assert all(f'from 4 x 4 to {size // 8} x {size // 8} patches' in message for message in scaled)
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    embedding = F.normalize(original.encode_image((image - tower.mean) / tower.std), dim=-1)
    torch.testing.assert_close(tower.image_embedding(image), embedding, atol=1e-5, rtol=0)


def test_half_precision_positions_are_scaled_in_float32(tmp_path):
    half = {name: tensor.half() for name, tensor in clip('tiny-vit').state_dict().items()}
    save_file(half, tmp_path / 'half.safetensors')
    save_file({name: tensor.float() for name, tensor in half.items()}, tmp_path / 'full.safetensors')
    tower = fisa_tower(48)
    found = [
        at_size_of(tower, open_clip_tensors(path, 'tiny-vit').visual, path)['positional_embedding']
        for path in (tmp_path / 'half.safetensors', tmp_path / 'full.safetensors')
    ]
    assert found[0].dtype == torch.float32
    assert torch.equal(*found)


def test_positions_of_no_square_stay_for_the_check_of_all_tensors(tmp_path):
    positions = {'positional_embedding': torch.zeros(12, 32)}
    assert at_size_of(fisa_tower(48), positions, tmp_path)['positional_embedding'].shape == (12, 32)


@pytest.mark.parametrize(
    ('tensors', 'text'),
    [
        ({'visual.conv1.weight': torch.zeros(1)}, 'no CLIP of open_clip: logit_scale is missing'),
        ({'logit_scale': torch.zeros(2)}, 'logit_scale is missing or no finite number'),
        ({'logit_scale': torch.tensor(float('nan'))}, 'logit_scale is missing or no finite number'),
        (
            {'vision_model.embeddings.class_embedding': torch.zeros(1), 'logit_scale': torch.zeros(())},
            r'names of transformers: use .* open_clip_model\.safetensors',
        ),
    ],
)
def test_what_is_no_clip_is_named(tmp_path, tensors, text):
    with pytest.raises(WeightsError, match=text):
        split_clip(tmp_path, tensors)


def write_settings(folder, change):
    document = {
        'model_cfg': deepcopy(CLIPS['tiny-vit']),
        'preprocess_cfg': {
            'mean': list(open_clip.OPENAI_DATASET_MEAN), 'std': list(open_clip.OPENAI_DATASET_STD),
            'interpolation': 'bicubic',
        },
    }  # fmt: skip
    change(document)
    (folder / 'open_clip_config.json').write_text(json.dumps(document))


def test_settings_that_change_nothing_are_accepted(tmp_path):
    save_file(clip('tiny-vit').state_dict(), tmp_path / 'open_clip_model.safetensors')

    def change(document):
        document['model_cfg']['vision_cfg'] |= {'image_size': 96, 'pool_type': 'tok', 'mlp_ratio': 4.0}
        document['model_cfg']['text_cfg'] |= {'hf_tokenizer_name': 'x', 'pool_type': 'argmax'}

    write_settings(tmp_path, change)
    open_clip_tensors(tmp_path, 'tiny-vit')


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda document: document['model_cfg'].pop('quick_gelu'), 'quick_gelu is False, the model .* has True'),
        (lambda document: document['model_cfg']['vision_cfg'].update(head_width=32), r'vision_cfg\.head_width is 32'),
        (lambda document: document['model_cfg']['text_cfg'].update(heads=4), r'text_cfg\.heads is 4, .* has 2'),
        (lambda document: document['preprocess_cfg'].update(mean=[0.5, 0.5, 0.5]), r'mean is \(0\.5, 0\.5, 0\.5\)'),
        (lambda document: document.pop('model_cfg'), r'open_clip_config\.json cannot be understood'),
        (lambda document: document['model_cfg']['vision_cfg'].update(new=1), 'cannot be understood .*new'),
    ],
)
def test_settings_of_another_clip_are_named(tmp_path, change, text):
    save_file(clip('tiny-vit').state_dict(), tmp_path / 'open_clip_model.safetensors')
    write_settings(tmp_path, change)
    with pytest.raises(WeightsError, match=text):
        open_clip_tensors(tmp_path, 'tiny-vit')


@pytest.fixture
def tagged(monkeypatch, tmp_path):
    """Give a small model two tags, of which the first lies in the cache of the hub in its true form."""
    tags = {
        'laion9b': {'hf_hub': 'someone/tiny-vit/', 'quick_gelu': True},
        'plain_gelu': {'hf_hub': 'someone/other/'},
        'gone': {'hf_hub': 'someone/gone/', 'quick_gelu': True},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-vit', tags)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    repository, commit = tmp_path / 'models--someone--tiny-vit', 'a' * 40
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs' / 'main').write_text(commit)
    (repository / 'snapshots' / commit).mkdir(parents=True)
    save_file(clip('tiny-vit').state_dict(), repository / 'snapshots' / commit / 'open_clip_model.safetensors')


@pytest.mark.usefixtures('tagged')
def test_a_tag_of_open_clip_is_found_in_the_cache():
    assert_holds(open_clip_tensors(download_open_clip('tiny-vit', 'laion9b'), 'tiny-vit'), clip('tiny-vit'))


@pytest.mark.usefixtures('tagged')
def test_the_variant_with_quickgelu_has_the_tags_of_its_model(monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-vit-quickgelu', CLIPS['tiny-vit'])
    assert download_open_clip('tiny-vit-quickgelu', 'laion9b') == download_open_clip('tiny-vit', 'laion9b')
    with pytest.raises(WeightsError, match="no weights 'x' of tiny-vit-quickgelu, known are laion9b"):
        download_open_clip('tiny-vit-quickgelu', 'x')
    with pytest.raises(WeightsError, match=r"get_pretrained_cfg\(.*tiny-vit'.*gone"):
        download_open_clip('tiny-vit-quickgelu', 'gone')


@pytest.mark.usefixtures('tagged')
@pytest.mark.parametrize(
    ('tag', 'text'),
    [
        ('laion8b', "no weights 'laion8b' of tiny-vit, known are laion9b, plain_gelu, gone"),
        ('plain_gelu', 'quick_gelu is False, the model of the manifest has True'),
        (
            'gone',
            r"'gone' of tiny-vit are not here and could not be downloaded .*run: python -c '.*download_pretrained",
        ),
    ],
)
def test_tags_that_cannot_be_had_are_named(tag, text):
    with pytest.raises(WeightsError, match=text):
        download_open_clip('tiny-vit', tag)


def segmenter(original):
    """Return a checkpoint as MAFT+ has it."""
    own = {f'backbone.clip_model.{name}': tensor for name, tensor in original.state_dict().items()}
    twin = {f'backbone_t.clip_model.{name}': tensor + 1 for name, tensor in original.state_dict().items()}
    others = {
        'sem_seg_head.predictor.query_feat.weight': torch.zeros(250, 256),
        'sem_seg_head.predictor.logit_scale': torch.zeros(()),
        'criterion.empty_weight': torch.zeros(134),
        'void_embedding.weight': torch.zeros(1, 24),
        'cdt.cross_atten.norm.weight': torch.zeros(24),
    }
    return own | twin | others


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_the_clip_of_a_segmenter_is_taken_and_the_rest_logged(tmp_path, caplog, prefix):
    original = clip('tiny-convnext')
    tensors = {f'{prefix}{name}': tensor for name, tensor in segmenter(original).items()}
    torch.save({'model': tensors, 'optimizer': {'state': {}}, 'iteration': 9}, tmp_path / 'maftp_l.pth')
    with caplog.at_level(logging.INFO, 'fisa_ros.networks'):
        assert_holds(detectron2_clip_tensors(tmp_path / 'maftp_l.pth', 'tiny-convnext'), original)
    count = len(original.state_dict())
    assert f'{count} of backbone_t, 2 of sem_seg_head, 1 of criterion, 1 of void_embedding, 1 of cdt' in caplog.text


def test_a_segmenter_without_clip_is_refused(tmp_path):
    torch.save(
        {'model': {'backbone.res2.weight': torch.zeros(1), 'sem_seg_head.x': torch.zeros(1)}}, tmp_path / 'm.pth'
    )
    with pytest.raises(
        WeightsError, match=r'hold no backbone\.clip_model\.\*.*; there are 1 of backbone, 1 of sem_seg'
    ):
        detectron2_clip_tensors(tmp_path / 'm.pth', 'tiny-convnext')

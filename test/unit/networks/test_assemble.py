"""A model from the checkpoints of its parts, in the forms that they are published in."""

from dataclasses import replace
import json
import math

import open_clip
import pytest
from safetensors.torch import load_file, save_file
import torch
import torch.nn.functional as F

from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.core.manifest import ModelManifest, WeightsFile
from fisa_ros.core.model_sources import ModelSource
from fisa_ros.core.placement import Resize
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.networks.assemble import assemble_model
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.networks.weights import write_tensors

from .checkpoints.small_checkpoints import CLASSIFIERS, EOMT, NativeEomt, clip, eomt, register_clips

LAYOUTS = {'tiny-vit': ('eomt', 'open_clip'), 'tiny-convnext': ('eomt_native', 'detectron2')}


@pytest.fixture(scope='module', autouse=True)
def _configs():
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_clips(monkeypatch)
        yield


def manifest_of(model, folder):
    layouts = zip(('generator', 'classifier'), LAYOUTS[model], strict=True)
    return ModelManifest(
        name=model,
        description='Small.',
        licence='MIT',
        image_size_hw=(64, 64),
        weights=WeightsFile(folder / f'{model}.safetensors', None),
        generator={'type': 'eomt', 'config': EOMT},
        classifier={**CLASSIFIERS[model], 'model': model, 'merge_size': 16},
        text_encoder={'type': 'clip', 'model': model},
        prompt_templates=('{}',),
        thresholds=Thresholds(0.2, 0.5, 0.5),
        sources={part: ModelSource(part, layout, 'someone/it', 'main', (), 'MIT') for part, layout in layouts},
    )


def write_sources(model, folder):
    """Write the checkpoints of a model and return where they are and the two networks that they are of."""
    files = {'generator': folder / 'generator', 'classifier': folder / 'classifier'}
    for path in files.values():
        path.mkdir()
    original = clip(model)
    if model == 'tiny-vit':
        generator = eomt()
        generator.save_pretrained(files['generator'])
        save_file(original.state_dict(), files['classifier'] / 'open_clip_model.safetensors')
    else:
        generator = NativeEomt()
        torch.save(generator.checkpoint(), files['generator'] / 'pytorch_model.bin')
        tensors = {f'backbone.clip_model.{name}': tensor for name, tensor in original.state_dict().items()}
        torch.save({'model': tensors | {'void_embedding.weight': torch.ones(1, 24)}}, files['classifier'] / 'm.pth')
    return files, generator, original


@pytest.fixture(params=CLASSIFIERS)
def parts(request, tmp_path):
    """A manifest, the files of its sources and the original networks."""
    return manifest_of(request.param, tmp_path), *write_sources(request.param, tmp_path)


@torch.inference_mode()
def test_an_assembled_model_is_what_its_parts_were(parts):
    manifest, files, generator, original = parts
    write_tensors(assemble_model(manifest, files), manifest.weights.path)
    network, encoder = load_network(manifest).eval(), load_text_encoder(manifest)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))

    normalised = (images - network.generator.mean) / network.generator.std
    masks = generator(normalised).masks_queries_logits if manifest.name == 'tiny-vit' else generator(images)[0]
    torch.testing.assert_close(network.generator(images).mask_logits, masks, atol=1e-5, rtol=1e-5)

    tower = network.tower
    if manifest.name == 'tiny-vit':
        path = files['classifier'] / 'open_clip_model.safetensors'
        original = open_clip.create_model(manifest.name, pretrained=str(path), force_image_size=48).eval()
    small = network.at_tower_size(images)
    embedding = F.normalize(original.encode_image((small - tower.mean) / tower.std), dim=-1)
    torch.testing.assert_close(tower.image_embedding(small), embedding, atol=1e-5, rtol=0)
    whole = torch.full((2, 1, 16, 16), 30.0)
    tokens, mask = F.normalize(torch.ones(4, 24), dim=-1), torch.ones(4, dtype=torch.bool)
    torch.testing.assert_close(tower(small, whole, tokens, mask)[:, 0], embedding, atol=2e-5, rtol=0)

    sentences = ['a photo of a chair.', 'a fire extinguisher']
    words = F.normalize(original.encode_text(open_clip.tokenize(sentences)), dim=-1)
    torch.testing.assert_close(encoder.encode(sentences), words, atol=1e-5, rtol=0)


def test_what_was_published_is_kept_bit_for_bit(parts):
    manifest, files, generator, original = parts
    write_tensors(assemble_model(manifest, files), manifest.weights.path)
    network, encoder = load_network(manifest), load_text_encoder(manifest)
    state = original.state_dict()
    visual = network.tower.visual.state_dict()
    scaled = {'positional_embedding'} if manifest.name == 'tiny-vit' else set()
    assert all(torch.equal(visual[name], state[f'visual.{name}']) for name in set(visual) - scaled)
    text = encoder.model.state_dict()
    assert all(torch.equal(text[name], state[name]) for name in text)
    if manifest.name == 'tiny-vit':
        source = generator.state_dict()
        found = network.generator.model.state_dict()
        assert all(torch.equal(found[name], source[name]) for name in found)
    assert all(tensor.dtype == torch.float32 for tensor in load_file(manifest.weights.path).values())


def test_what_was_not_published_is_a_pass_through(parts):
    manifest, files, _, original = parts
    write_tensors(assemble_model(manifest, files), manifest.weights.path)
    network = load_network(manifest)
    assert network.head.logit_scale == original.logit_scale
    if manifest.name == 'tiny-convnext':
        assert not network.head.void_embedding.any(), 'that of the segmenter is of other features'
        return
    width = network.tower.visual.class_embedding.shape[0]
    for own, block in zip(network.tower.mask_queries, network.tower.blocks, strict=True):
        assert torch.equal(own.weight, block.attn.in_proj_weight[:width])
        assert torch.equal(own.bias, block.attn.in_proj_bias[:width])
    assert all(module.gate == 0 for module in network.tower.seve)
    assert network.head.void_embedding.norm().item() == pytest.approx(1)


def test_a_scale_beyond_that_of_clip_is_cut(tmp_path):
    manifest, (files, _, original) = manifest_of('tiny-vit', tmp_path), write_sources('tiny-vit', tmp_path)
    with torch.no_grad():
        original.logit_scale.fill_(4.61)
    save_file(original.state_dict(), files['classifier'] / 'open_clip_model.safetensors')
    write_tensors(assemble_model(manifest, files), manifest.weights.path)
    assert load_network(manifest).head.logit_scale.item() == pytest.approx(math.log(100))


def test_the_same_files_give_the_same_bytes(parts, tmp_path):
    manifest, files, *_ = parts
    torch.manual_seed(1)
    write_tensors(assemble_model(manifest, files), tmp_path / 'deep' / 'a.safetensors')
    state = torch.get_rng_state()
    torch.rand(3)
    write_tensors(assemble_model(manifest, files), tmp_path / 'b.safetensors')
    assert (tmp_path / 'deep' / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), 'random numbers of others are left alone'


def test_single_files_serve_as_well_as_folders(parts, tmp_path):
    manifest, files, *_ = parts
    write_tensors(assemble_model(manifest, files), tmp_path / 'a.safetensors')
    single = {part: next(path for path in folder.iterdir() if path.suffix != '.json') for part, folder in files.items()}
    write_tensors(assemble_model(manifest, single), tmp_path / 'b.safetensors')
    assert (tmp_path / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={'format': 'pt'})


def drop_layer(tensors):
    for name in [name for name in tensors if name.startswith('layers.1.')]:
        del tensors[name]


@pytest.mark.parametrize(
    ('part', 'change', 'text'),
    [
        (
            'generator',
            drop_layer,
            r'fit the generator: missing: model\.layers\.1\.\S+, .* more \(of all, 18 in model\.layers\)',
        ),
        ('generator', lambda t: t.update(extra=torch.zeros(1)), r'fit the generator: surplus: model\.extra$'),
        (
            'generator',
            lambda t: t.update({'query.weight': torch.zeros(9, 32)}),
            r'misshapen: model\.query\.weight \(9, 32\) instead of \(6, 32\)',
        ),
        ('generator', lambda t: t['query.weight'].fill_(math.nan), r'not finite: model\.query\.weight'),
        ('classifier', lambda t: t.pop('visual.proj'), r'fit the image tower: missing: visual\.proj$'),
        ('classifier', lambda t: t.pop('ln_final.bias'), r'fit the text tower: missing: ln_final\.bias$'),
        (
            'classifier',
            lambda t: t.update(positional_embedding=torch.zeros(32, 16)),
            r'fit the text tower: misshapen: positional_embedding \(32, 16\) instead of \(77, 16\)',
        ),
        (
            'classifier',
            lambda t: t.update({'visual.positional_embedding': torch.zeros(12, 32)}),
            r'fit the image tower: misshapen: visual\.positional_embedding \(12, 32\) instead of \(37, 32\)',
        ),
        ('classifier', lambda t: t.update(logit_bias=torch.zeros(())), r'fit the text tower: surplus: logit_bias'),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_the_old_file_stays(tmp_path, part, change, text):
    manifest, (files, *_) = manifest_of('tiny-vit', tmp_path), write_sources('tiny-vit', tmp_path)
    manifest.weights.path.write_bytes(b'old')
    rewrite(next(files[part].glob('*.safetensors')), change)
    with pytest.raises(WeightsError, match=text):
        write_tensors(assemble_model(manifest, files), manifest.weights.path)
    assert manifest.weights.path.read_bytes() == b'old'
    assert not list(tmp_path.glob('*.tmp'))


def test_a_disk_that_cannot_be_written_is_named(tmp_path):
    manifest, (files, *_) = manifest_of('tiny-vit', tmp_path), write_sources('tiny-vit', tmp_path)
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(WeightsError, match=r'file/out\.safetensors cannot be written'):
        write_tensors(assemble_model(manifest, files), tmp_path / 'file' / 'out.safetensors')


def change_manifest(manifest, part, **values):
    return replace(manifest, **{part: {**getattr(manifest, part), **values}})


def change_layout(manifest, layout):
    generator = replace(manifest.sources['generator'], layout=layout)
    return replace(manifest, sources={**manifest.sources, 'generator': generator})


@pytest.mark.parametrize(
    ('change', 'error', 'text'),
    [
        (lambda m: replace(m, sources={}), ManifestError, "'tiny-vit' names no source of its generator"),
        (
            lambda m: replace(m, sources={'generator': m.sources['generator']}),
            ManifestError,
            'names no source of its classifier',
        ),
        (
            lambda m: change_layout(m, 'sam'),
            ManifestError,
            r"sources\.generator\.layout must be one of eomt, eomt_native, mask2former, got 'sam'",
        ),
        (
            lambda m: change_layout(m, 'mask2former'),
            ManifestError,
            "type 'eomt' takes no weights of layout 'mask2former'",
        ),
        (lambda m: change_manifest(m, 'classifier', type='tiny'), ManifestError, "open_clip or pooled .*, got 'tiny'"),
        (
            lambda m: change_manifest(m, 'text_encoder', model='tiny-convnext'),
            ManifestError,
            "must be of one CLIP, got 'tiny-vit' and 'tiny-convnext'",
        ),
        (lambda m: change_manifest(m, 'classifier', image_size=50), ManifestError, 'multiple of its patch size'),
    ],
)
def test_manifests_that_cannot_be_assembled_are_refused(tmp_path, change, error, text):
    manifest, (files, *_) = manifest_of('tiny-vit', tmp_path), write_sources('tiny-vit', tmp_path)
    with pytest.raises(error, match=text):
        write_tensors(assemble_model(change(manifest), files), tmp_path / 'out.safetensors')
    assert not (tmp_path / 'out.safetensors').exists()


@pytest.mark.parametrize('part', ['generator', 'classifier'])
def test_missing_files_are_named(tmp_path, part):
    manifest, (files, *_) = manifest_of('tiny-vit', tmp_path), write_sources('tiny-vit', tmp_path)
    with pytest.raises(WeightsError, match=f'weights of the {part} of tiny-vit are missing: .*none/at/all'):
        write_tensors(assemble_model(manifest, {**files, part: tmp_path / 'none/at/all'}), tmp_path / 'out.safetensors')
    del files[part]
    with pytest.raises(WeightsError, match=f'weights of the {part} of tiny-vit are missing: no file was given'):
        write_tensors(assemble_model(manifest, files), tmp_path / 'out.safetensors')


def test_a_tag_of_open_clip_stands_for_a_source(tmp_path, monkeypatch):
    manifest, (files, *_) = manifest_of('tiny-vit', tmp_path), write_sources('tiny-vit', tmp_path)
    path = files['classifier'] / 'open_clip_model.safetensors'
    tags = {'laion9b': {'file': str(path), 'quick_gelu': True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-vit', tags)
    write_tensors(assemble_model(manifest, files), tmp_path / 'a.safetensors')
    tagged = change_manifest(manifest, 'classifier', pretrained='laion9b')
    tagged = replace(tagged, sources={'generator': manifest.sources['generator']})
    write_tensors(assemble_model(tagged, {'generator': files['generator']}), tmp_path / 'b.safetensors')
    assert (tmp_path / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()
    assert load_network(replace(tagged, weights=WeightsFile(tmp_path / 'b.safetensors', None)))


def test_a_manifest_that_scales_images_otherwise_is_told_of(tmp_path, caplog):
    manifest, (files, *_) = manifest_of('tiny-vit', tmp_path), write_sources('tiny-vit', tmp_path)
    settings = {'do_pad': True, 'size': {'shortest_edge': 64, 'longest_edge': 64}}
    (files['generator'] / 'preprocessor_config.json').write_text(json.dumps(settings))
    write_tensors(assemble_model(manifest, files), manifest.weights.path)
    assert 'set resize: pad' in caplog.text
    caplog.clear()
    write_tensors(assemble_model(replace(manifest, resize=Resize('pad')), files), manifest.weights.path)
    assert 'resize' not in caplog.text

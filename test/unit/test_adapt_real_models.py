"""Adapting a small model of the kind of fisa-s, put together from EoMT and CLIP, to COCO in miniature."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
from safetensors.torch import save_file
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation
import yaml

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.site_images import open_folder
from fisa_ros.networks.assemble import assemble_model
from fisa_ros.networks.load import load_text_encoder
from fisa_ros.networks.weights import write_tensors
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools import adapt, evaluate, export

from .training.small_fisa import GENERATOR, register_clip, write_coco

BASE = 'chair; floor; wall'
CLIP = 'small-vit'


@pytest.fixture(scope='module', autouse=True)
def surroundings(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        register_clip()
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco')
    write_coco(root, 'train2017', 10)
    write_coco(root, 'val2017', 8)
    return root


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Manifest of a model as `tools.models download` leaves it: FISA's own parts let CLIP's pass."""
    folder = tmp_path_factory.mktemp('model')
    files = {part: folder / part for part in ('generator', 'classifier')}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        generator = EomtForUniversalSegmentation(EomtConfig(**GENERATOR['config']))
        clip = open_clip.create_model(CLIP, pretrained_image=False)
    generator.attn_mask_probs.zero_()
    generator.save_pretrained(files['generator'])
    files['classifier'].mkdir()
    save_file(clip.state_dict(), files['classifier'] / 'open_clip_model.safetensors')
    document = yaml.safe_load((share_dir() / 'models' / 'fisa-s.yaml').read_text())
    document |= {
        'name': 'small-fisa',
        'image_size_hw': [64, 64],
        'weights': {'file': 'small-fisa.safetensors', 'sha256': None},
        'generator': GENERATOR,
        'classifier': {
            'type': 'open_clip', 'model': CLIP, 'image_size': 48, 'seve_blocks': 2, 'seve_width': 16, 'merge_size': 16,
        },
        'text_encoder': {'type': 'clip', 'model': CLIP},
        # Masks of a generator that nobody trained are no objects.
        'thresholds': {'score': 0.0, 'mask': 0.5, 'overlap': 0.0, 'objectness_trust': 0.0},
    }  # fmt: skip
    path = folder / 'small-fisa.yaml'
    path.write_text(yaml.safe_dump(document))
    manifest = load_manifest(path)
    write_tensors(assemble_model(manifest, files), manifest.weights.path)
    return path


@pytest.fixture(scope='module')
def adapted(tmp_path_factory, coco, model):
    """Manifest of the model, adapted to persons."""
    out = tmp_path_factory.mktemp('adapted')
    arguments = [
        '--model', model, '--images', coco / 'train2017', '--rehearsal', coco / 'train2017', '--vocabulary', BASE,
        '--out', out, '--name', 'small-site', '--steps', 60, '--views', 4, '--threads', 1, '--precision', 'fp32',
        '--force',
    ]  # fmt: skip
    assert adapt.main([str(argument) for argument in arguments]) == 0
    return out / 'small-site.yaml'


def words_of(manifest: Path) -> str:
    return str(manifest.with_name(f'{manifest.stem}_vocabulary.yaml'))


def test_it_learns_what_is_new(adapted, model):
    report = json.loads(adapted.with_name('small-site_report.json').read_text())
    assert list(report['masks']) == ['person']
    assert len(report['alpha_of_parts']) == 2
    assert report['after']['new'] > report['before']['new'] + 0.3, report
    assert report['after']['base_masks'] > 10
    assert report['model'] == 'small-fisa'
    assert report['model_sha256'] == load_manifest(model).weights.sha256


def test_what_was_frozen_is_carried_over(adapted, model):
    start, manifest = load_manifest(model), load_manifest(adapted)
    documents = [yaml.safe_load(path.read_text()) for path in (model, adapted)]
    for key in ('generator', 'classifier', 'text_encoder', 'prompt_templates', 'thresholds', 'licence'):
        assert documents[0][key] == documents[1][key]
    assert 'sources' not in documents[1]
    sentences = ['a person', 'a wall']
    before, after = (load_text_encoder(entry).encode(sentences) for entry in (start, manifest))
    assert before.equal(after)


@pytest.mark.slow
def test_exported_graphs_answer_as_it_does(adapted, coco):
    frames = open_folder(coco / 'val2017')
    request = VocabularyRequest.parse(words_of(adapted))
    arguments = ['--model', adapted, '--frames', coco / 'val2017', '--vocabulary', words_of(adapted)]
    assert export.main([str(argument) for argument in arguments]) == 0
    results = []
    for backend in ('torch', 'onnxruntime'):
        segmenter = Segmenter.load(str(adapted), backend, 'cpu', precision='fp32', cache=False)
        try:
            state = segmenter.prepare(VocabularyRegistry().propose(request))
            results.append([segmenter.segment(frames.image(index), state) for index in range(len(frames))])
        finally:
            segmenter.close()
    assert all(result.segments for result in results[0])
    agreeing = [np.mean(ours.semantic_map == theirs.semantic_map) for ours, theirs in zip(*results, strict=True)]
    assert min(agreeing) > 0.99
    for ours, theirs in zip(*results, strict=True):
        assert [segment.class_name for segment in ours.segments] == [segment.class_name for segment in theirs.segments]
        scores = [[segment.score for segment in result.segments] for result in (ours, theirs)]
        np.testing.assert_allclose(*scores, atol=1e-3)


def test_evaluation_finds_the_new_class(adapted, model, coco, capsys):
    shares = []
    for manifest in (model, adapted):
        arguments = [
            '--model', manifest, '--vocabulary', words_of(adapted), '--images', coco / 'val2017',
            '--panoptic', coco / 'annotations' / 'panoptic_val2017.json', '--backend', 'torch', '--json',
        ]  # fmt: skip
        assert evaluate.main([str(argument) for argument in arguments]) == 0
        summary = json.loads(capsys.readouterr().out)
        shares.append(summary['per_class']['person']['mask_accuracy'])
    assert shares[1] > shares[0] + 0.3

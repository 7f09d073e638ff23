"""The recipe for real models, on a small model of their kind and COCO in miniature."""

import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import pytest
import torch
import yaml

from fisa_ros.core.errors import DataError, WeightsError
from fisa_ros.core.manifest import load_manifest, untuned_note
from fisa_ros.core.placement import Resize
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.tools import evaluate
from fisa_ros.tools.train import main
from fisa_ros.training import loop
from fisa_ros.training.loop import TrainingStoppedError, load_trained
from fisa_ros.training.recipe import load_recipe
from fisa_ros.training.settings import RunSettings
from fisa_ros.training.simo import simo_parameters
from fisa_ros.training.stages import run_stage

from . import small_fisa
from .small_fisa import NAME, register_clip, write_coco, write_model, write_recipe

# Of weights that move by 0.05. Sums in another order differ in their last bits, and where a gradient is hardly more
# than such bits, as that of a bias of keys, Adam makes steps of them: single weights may differ, their mean does not.
TOLERANCE, MEAN_TOLERANCE = 5e-4, 1e-6
PHASE = {'size': 64, 'batch_size': 2, 'steps': 1, 'learning_rate': 0.1}


@pytest.fixture(scope='module', autouse=True)
def clip():
    register_clip()


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco')
    write_coco(root, 'train2017', 10)
    write_coco(root, 'val2017', 3)
    return root


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def recipe(tmp_path_factory, model):
    options = {'simo': ['queries', 'seve', 'void'], 'ema': 0.5}
    return write_recipe(tmp_path_factory.mktemp('recipe') / 'small-coco.yaml', model, options=options)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, recipe, coco):
    """One process, one batch per step, masks from the generator itself."""
    out = tmp_path_factory.mktemp('trained')
    assert main(['--recipe', recipe, '--data', str(coco), '--out', str(out), '--threads', '1']) == 0
    return out


def test_the_result_is_a_model_that_all_tools_take(trained, model):
    start, manifest = load_manifest(model), load_manifest(trained / 'fisa' / f'{NAME}.yaml')
    assert (manifest.licence, manifest.image_size_hw) == (start.licence, start.image_size_hw)
    assert manifest.thresholds == start.thresholds
    assert manifest.resize == start.resize == Resize('pad')
    assert start.weights.sha256 in manifest.description
    assert 'small-coco.yaml' in manifest.description
    documents = [yaml.safe_load(path.read_text()) for path in (model, manifest.path)]
    assert documents[1]['sources'] == documents[0]['sources']
    assert untuned_note(manifest) is None
    network, encoder = load_network(manifest), load_text_encoder(manifest)
    sentences = ['a wall', 'a chair']
    torch.testing.assert_close(encoder.encode(sentences), load_text_encoder(start).encode(sentences))
    before = load_network(start)
    learnt = {id(entry) for entry in simo_parameters(network)}
    for (name, mine), other in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, other) is not (id(mine) in learnt), name


def test_the_result_is_evaluated(trained, coco, capsys):
    arguments = ['--model', str(trained / 'fisa' / f'{NAME}.yaml'), '--backend', 'torch', '--device', 'cpu', '--json']
    arguments += ['--images', str(coco / 'val2017'), '--panoptic', str(coco / 'annotations' / 'panoptic_val2017.json')]
    assert evaluate.main([*arguments, '--limit', '2']) == 0
    assert 0 <= json.loads(capsys.readouterr().out)['mask_accuracy'] <= 1


def test_validation_is_logged(trained):
    lines = [json.loads(line) for line in (trained / 'fisa' / 'log.jsonl').read_text().splitlines()]
    assert 0 <= lines[-1]['mask_accuracy'] <= 1


def test_two_processes_with_two_batches_each_give_the_weights_of_one(recipe, coco, trained, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    launcher = ['torch.distributed.run', '--nproc_per_node=2', '--master_addr=127.0.0.1', f'--master_port={port}']
    arguments = ['--recipe', recipe, '--data', str(coco), '--out', str(tmp_path), '--threads', '1', '--accumulate', '2']
    subprocess.run(
        [sys.executable, '-m', *launcher, small_fisa.__file__, *arguments],
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'GLOO_SOCKET_IFNAME': 'lo', 'OMP_NUM_THREADS': '1'},
        check=True,
        timeout=240,
    )
    mine, other = load_trained(tmp_path / 'fisa'), load_trained(trained / 'fisa')
    differences = torch.cat([(mine[name] - tensor).abs().flatten().float() for name, tensor in other.items()])
    assert differences.max() < TOLERANCE
    assert differences.mean() < MEAN_TOLERANCE
    start = load_network(load_manifest(yaml.safe_load(Path(recipe).read_text())['initial']))
    moved = other['network.tower.mask_queries.0.weight'] - start.state_dict()['tower.mask_queries.0.weight']
    assert moved.abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize('cached', [False, True])
def test_a_resumed_run_ends_with_the_very_same_weights(recipe, coco, tmp_path, cached):
    chosen = load_recipe(recipe)

    def run(out, max_seconds=None):
        cache = tmp_path / 'cache' if cached else None
        settings = RunSettings(1, max_seconds, 'fp32', chosen.settings(), accumulate=2, mask_cache=cache)
        run_stage(chosen, coco, out, settings)

    for _ in range(3):
        with pytest.raises(TrainingStoppedError, match='time limit'):
            run(tmp_path / 'stopped', 1e-6)
    run(tmp_path / 'stopped')
    run(tmp_path / 'straight')
    stopped, straight = (load_trained(tmp_path / name / 'fisa') for name in ('stopped', 'straight'))
    assert all(torch.equal(stopped[name], tensor) for name, tensor in straight.items())
    written = [(tmp_path / name / 'fisa' / f'{NAME}.safetensors').read_bytes() for name in ('stopped', 'straight')]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'phases': [{**PHASE, 'size': 96}]}, "size of a phase must be model small-fisa's 64, got 96"),
        ({'initial': 'pooled-l', 'options': {}}, 'pooled-l has nothing to train, its classifier is pooled'),
        ({'dataset': 'coco'}, "there is no data set 'coco', choose from coco-panoptic,"),
        ({'options': {'ema': 1.0}}, r'ema must be in \[0, 1\), got 1.0'),
        ({'options': {'kept_masks': 0}}, 'kept_masks must be 1 or more, got 0'),
    ],
)  # fmt: skip
def test_recipes_that_do_not_fit_the_model_are_refused(coco, model, tmp_path, changes, message):
    chosen = load_recipe(write_recipe(tmp_path / 'r.yaml', model, **changes))
    with pytest.raises(DataError, match=message):
        run_stage(chosen, coco, tmp_path / 'out', RunSettings(1))


def test_missing_weights_name_the_model(coco, model, tmp_path):
    document = yaml.safe_load(model.read_text())
    document['weights'] = {'file': 'missing.safetensors', 'sha256': None}
    (tmp_path / f'{NAME}.yaml').write_text(yaml.safe_dump(document))
    chosen = load_recipe(write_recipe(tmp_path / 'r.yaml', tmp_path / f'{NAME}.yaml'))
    with pytest.raises(WeightsError, match=rf"no weights are shipped for model '{NAME}'; .*tools\.models download"):
        run_stage(chosen, coco, tmp_path / 'out', RunSettings(1))


def test_missing_data_names_the_layout(recipe, tmp_path, capsys):
    assert main(['--recipe', recipe, '--data', str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f'{tmp_path} has no data set coco-panoptic, split train. Expected' in error
    assert 'annotations/panoptic_train2017.json (missing)' in error


def test_other_weights_are_not_gone_on_with(recipe, coco, trained, tmp_path):
    document = yaml.safe_load(Path(recipe).read_text()) | {'initial': str(write_model(tmp_path, seed=5))}
    (tmp_path / 'r.yaml').write_text(yaml.safe_dump(document))
    chosen = load_recipe(str(tmp_path / 'r.yaml'))
    with pytest.raises(DataError, match='is of another recipe: initial was'):
        run_stage(chosen, coco, trained, RunSettings(1, None, 'fp32', chosen.settings()))


def test_a_full_disk_leaves_the_last_checkpoint(recipe, coco, tmp_path, monkeypatch):
    chosen = load_recipe(recipe)
    with pytest.raises(TrainingStoppedError):
        run_stage(chosen, coco, tmp_path, RunSettings(1, 1e-6, 'fp32', chosen.settings()))
    good = (tmp_path / 'fisa' / 'checkpoint.pt').read_bytes()

    def full(content, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(loop.torch, 'save', full)
    with pytest.raises(DataError, match=r'checkpoint\.pt cannot be written: .*No space left on device'):
        run_stage(chosen, coco, tmp_path, RunSettings(1, 1e-6, 'fp32', chosen.settings()))
    assert (tmp_path / 'fisa' / 'checkpoint.pt').read_bytes() == good

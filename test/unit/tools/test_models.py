"""The command line that lists models and gets those that are not shipped, against a hub on this machine."""

import errno
import io
import json
import logging
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

from hub_server import BLOCK, COMMIT, Content, HubFile, Text
import numpy as np
import pytest
from safetensors.torch import load_file
import torch
import yaml

from fisa_ros.core.manifest import load_manifest, shipped_models, verify_weights
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.networks.load import load_network
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime import model_store
from fisa_ros.tools.models import main

from ..networks.checkpoints.small_checkpoints import (  # noqa: TID252
    CLASSIFIERS,
    EOMT,
    clip,
    eomt,
    register_clips,
)

ROOT = Path(__file__).absolute().parents[3]
WEIGHTS, CONFIG, CLIP = 'someone/masks/model.safetensors', 'someone/masks/config.json', 'other/clip/clip.bin'


class Bytes(Content):
    """What a file on this machine holds."""

    def __init__(self, content):
        super().__init__(len(content))
        self.content = content

    def blocks(self, start=0):
        yield self.content[start:]


@pytest.fixture(autouse=True)
def _configs(monkeypatch):
    register_clips(monkeypatch)


def write_manifest(folder, model='tiny-vit', *, has_sources=True, weights=None):
    """Write the manifest of a small model whose parts are on the hub; return its path."""
    document = yaml.safe_load((share_dir() / 'models' / 'fisa-s.yaml').read_text())
    files = {'someone/masks': ('model.safetensors', 'config.json'), 'other/clip': ('clip.bin',)}
    document |= {
        'name': model,
        'image_size_hw': [64, 64],
        'weights': {'file': weights or f'{model}.safetensors', 'sha256': None},
        'generator': {'type': 'eomt', 'config': EOMT},
        'classifier': {**CLASSIFIERS[model], 'model': model, 'merge_size': 32},
        'text_encoder': {'type': 'clip', 'model': model},
        'prompt_templates': ['{}'],
        'sources': {
            part: {
                'layout': layout,
                'repo': repo,
                'revision': COMMIT,
                'licence': 'MIT',
                'files': [{'name': name, 'size': None, 'sha256': None} for name in files[repo]],
            }
            for part, layout, repo in (
                ('generator', 'eomt', 'someone/masks'),
                ('classifier', 'open_clip', 'other/clip'),
            )
        },
    }
    if not has_sources:
        del document['sources']
    path = folder / f'{model}.yaml'
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def put_checkpoints(hub, folder, manifest, seed=0):
    """Put the parts of a small model on the hub, in the forms that their authors publish."""
    eomt(seed=seed).save_pretrained(folder / 'masks')
    file = io.BytesIO()
    torch.save(clip(manifest.name, seed).state_dict(), file)
    hub.files |= {
        WEIGHTS: HubFile(Bytes((folder / 'masks' / 'model.safetensors').read_bytes())),
        CONFIG: HubFile(Text((folder / 'masks' / 'config.json').read_text()), is_large=False),
        CLIP: HubFile(Bytes(file.getvalue())),
    }


def run(capsys, *arguments):
    """Run the command line; return its status, what it printed as JSON, and its log."""
    capsys.readouterr()
    status = main([*map(str, arguments), '--json'])
    printed = capsys.readouterr()
    return status, json.loads(printed.out) if printed.out else None, printed.err


def test_the_list_says_what_there_is_of_each_model(hub, capsys):
    status, summary, _ = run(capsys, 'list')
    assert status == 0
    models = {model['name']: model for model in summary['models']}
    assert set(models) == set(shipped_models())
    tiny, large = models['fisa-tiny'], models['fisa-l']
    assert (tiny['state'], tiny['bytes_to_download'], tiny['note']) == ('shipped', 0, None)
    weights = load_manifest('fisa-tiny').weights.path
    assert tiny['bytes_present'] == weights.stat().st_size
    assert tiny['parameters'] == sum(tensor.numel() for tensor in load_file(weights).values())
    assert tiny['image_size_hw'] == [320, 320]
    assert (large['state'], large['bytes_present'], large['parameters']) == ('missing', 0, None)
    assert large['weights'] == f'{os.environ["FISA_ROS_MODELS"]}/fisa-l/fisa-l.safetensors'
    assert 'fisa-l is untuned: ' in large['note']
    assert models['pooled-l']['note'] is None
    assert large['next_command'] == 'python -m fisa_ros.tools.models download fisa-l'
    assert not hub.requests
    assert main(['list']) == 0
    printed = capsys.readouterr().out
    assert all(model['description'] in printed and model['licence'] in printed for model in summary['models'])


def test_info_names_every_file_of_every_source(hub, capsys):
    status, summary, _ = run(capsys, 'info', 'fisa-l')
    assert status == 0
    manifest = load_manifest('fisa-l')
    assert [(source['part'], source['repo']) for source in summary['sources']] == [
        (part, source.repo) for part, source in manifest.sources.items()
    ]
    assert main(['info', 'fisa-l']) == 0
    printed = capsys.readouterr().out
    for source in manifest.sources.values():
        assert source.licence in printed
        for file in source.files:
            assert f'{os.environ["HF_ENDPOINT"]}/{source.repo}/resolve/{source.revision}/{file.name}\n' in printed
            assert file.sha256 is None or f'{file.sha256} (of the manifest)' in printed
    assert 'next: python -m fisa_ros.tools.models download fisa-l' in printed
    assert not hub.requests


@pytest.mark.parametrize('model', ['tiny-vit', 'tiny-convnext'])
def test_a_model_is_fetched_put_together_and_used(hub, capsys, caplog, tmp_path, model):
    path = write_manifest(tmp_path, model)
    manifest = load_manifest(path)
    put_checkpoints(hub, tmp_path, manifest)
    status, summary, log = run(capsys, 'download', path)
    assert status == 0, log
    assert summary['state'] == 'assembled'
    assert summary['weights'] == str(tmp_path / 'models' / model / f'{model}.safetensors')
    assert summary['next_command'] == f'python -m fisa_ros.tools.export --model {path}'
    assert summary['parameters'] > 0
    # FISA was not tuned, and a frozen CLIP need not be.
    is_untuned = model == 'tiny-vit'
    assert ('is untuned' in (summary['note'] or '')) is is_untuned

    with caplog.at_level(logging.WARNING, 'fisa_ros.segmenter'):
        segmenter = Segmenter.load(path, 'torch', 'cpu', cache=False)
    assert (f'{model} is untuned' in caplog.text) is is_untuned
    state = segmenter.prepare(VocabularyRegistry().propose(VocabularyRequest.parse('chair; door')))
    assert segmenter.segment(np.zeros((48, 64, 3), np.uint8), state).semantic_map.shape == (48, 64)
    segmenter.close()

    _, described, _ = run(capsys, 'info', path)
    fetched = [file['fetched'] for source in described['sources'] for file in source['files']]
    assert all(file['revision'] == COMMIT for file in fetched)
    assert described['sha256'] == load_manifest(path).weights.sha256
    assert main(['info', str(path)]) == 0
    assert f'{fetched[0]["sha256"]} (of the first time)' in capsys.readouterr().out


def test_what_is_there_is_not_made_again(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    _, first, _ = run(capsys, 'download', path)
    made = Path(first['weights'])
    before = made.stat()
    hub.requests.clear()
    status, _, _ = run(capsys, 'download', path)
    assert (status, made.stat()) == (0, before)
    assert not hub.requests
    # Weights that are damaged are made anew, of the files that are there.
    made.write_bytes(made.read_bytes()[:-1])
    assert run(capsys, 'download', path)[0] == 0
    assert made.stat().st_size == before.st_size
    assert not hub.requests


def test_weights_are_made_where_the_manifest_looks_for_them(hub, capsys, tmp_path):
    path = write_manifest(tmp_path, weights='first/try.safetensors')
    put_checkpoints(hub, tmp_path, load_manifest(path))
    status, summary, _ = run(capsys, 'download', path)
    assert (status, summary['state']) == (0, 'assembled')
    assert summary['weights'] == f'{os.environ["FISA_ROS_MODELS"]}/tiny-vit/try.safetensors'
    assert load_network(load_manifest(path))
    hub.requests.clear()
    assert run(capsys, 'download', path)[0] == 0
    assert not hub.requests


def test_the_weights_are_told_of_by_their_name(hub, capsys, caplog, monkeypatch, tmp_path):
    path = write_manifest(tmp_path)
    manifest = load_manifest(path)
    put_checkpoints(hub, tmp_path, manifest)
    weights = manifest.weights.path

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(model_store, 'note_sum', full)
        code, _, err = run(capsys, 'download', path)
    assert code == 2
    assert err.splitlines()[-1] == f'error: weights {weights} cannot be written: [Errno 28] No space left on device'
    assert 'assembled' not in caplog.text
    assert run(capsys, 'download', path)[0] == 0
    assert f'assembled: {weights}\n' in caplog.text


def test_other_checkpoints_make_other_weights(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    manifest = load_manifest(path)
    put_checkpoints(hub, tmp_path, manifest)
    run(capsys, 'download', path)
    first = load_manifest(path).weights.sha256
    put_checkpoints(hub, tmp_path, manifest, seed=1)
    assert run(capsys, 'download', path)[0] == 0
    assert load_manifest(path).weights.sha256 == first
    assert run(capsys, 'download', path, '--force')[0] == 0
    assert load_manifest(path).weights.sha256 != first


def test_another_network_is_made_of_the_same_checkpoints(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    run(capsys, 'download', path)
    document = yaml.safe_load(path.read_text())
    document['classifier']['image_size'] = 64
    path.write_text(yaml.safe_dump(document))
    hub.requests.clear()
    _, described, _ = run(capsys, 'info', path)
    assert (described['state'], described['bytes_to_download']) == ('outdated', 0)
    assert described['next_command'] == f'python -m fisa_ros.tools.models download {path}'
    assert run(capsys, 'download', path)[1]['state'] == 'assembled'
    assert not hub.requests
    assert load_network(load_manifest(path)).tower.visual.image_size == (64, 64)


def test_a_folder_serves_without_the_hub(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    for name, file in hub.files.items():
        target = tmp_path / 'mirror' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content.read())
    assert run(capsys, 'download', path, '--from', tmp_path / 'mirror')[1]['state'] == 'assembled'
    assert not hub.requests


def test_checkpoints_that_do_not_fit_are_told_and_kept(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    hub.files[CLIP] = HubFile(Text('<!doctype html>'))
    status, summary, log = run(capsys, 'download', path)
    assert (status, summary) == (2, None)
    assert 'error: weights' in log
    # The hub told the sums of the others.
    assert log.endswith('nobody told the sum of generator/config.json: if they came damaged, repeat with --force\n')
    _, described, _ = run(capsys, 'info', path)
    kept = {file['name']: file['fetched'] is not None for source in described['sources'] for file in source['files']}
    assert kept == {'model.safetensors': True, 'config.json': False, 'clip.bin': True}


def test_a_bad_first_download_is_not_trusted_for_ever(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    good = hub.files[CONFIG]
    hub.files[CONFIG] = HubFile(Text('{"model'), is_large=False)
    assert run(capsys, 'download', path)[0] == 2
    hub.files[CONFIG] = good
    hub.requests.clear()
    assert run(capsys, 'download', path)[0] == 0
    assert not hub.asked('files')


def test_a_file_that_is_no_longer_listed_is_not_taken_for_the_checkpoint(hub, capsys, caplog, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    run(capsys, 'download', path)
    first = load_manifest(path).weights.sha256
    put_checkpoints(hub, tmp_path, load_manifest(path), seed=1)
    hub.files['other/clip/new.bin'] = hub.files.pop(CLIP)
    path.write_text(path.read_text().replace('clip.bin', 'new.bin'))
    status, _, log = run(capsys, 'download', path)
    assert status == 0, log
    assert 'clip.bin, which the manifest does not list' in caplog.text
    assert load_manifest(path).weights.sha256 != first


def test_weights_beside_the_manifest_need_no_download(hub, capsys, caplog, tmp_path):
    own = write_manifest(tmp_path)
    (tmp_path / 'tiny-vit.safetensors').write_bytes(b'tuned')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'kept.safetensors').write_bytes(b'tuned')
    other = write_manifest(tmp_path / 'other', weights='../kept.safetensors')
    for model in ('fisa-tiny', own, other):
        status, summary, _ = run(capsys, 'download', model)
        assert (status, summary['state'], summary['note']) == (0, 'shipped', None)
        assert f'{summary["name"]} has weights of its own (' in caplog.text
    assert not hub.requests


def test_lost_weights_of_a_training_are_not_made_of_sources(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    document = yaml.safe_load(path.read_text())
    document['weights']['sha256'] = 'ab' * 32
    path.write_text(yaml.safe_dump(document))
    status, _, log = run(capsys, 'download', path)
    assert status == 2
    assert f'of a training: put them back to {tmp_path / "tiny-vit.safetensors"}' in log
    assert not hub.requests


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (['info', 'fisa-huge'], "error: unknown model 'fisa-huge'"),
        (['download', 'fisa-huge'], "error: unknown model 'fisa-huge'"),
        (['download', 'fisa-s'], 'error: http://127.0.0.1:'),
        (['download', 'fisa-s', '--from', '/nowhere'], 'error: --from /nowhere is not a folder'),
        (['download', '{path}'], 'tiny-vit.yaml names no sources to make tiny-vit of'),
    ],
)
def test_errors_are_one_line(hub, capsys, tmp_path, arguments, text):
    path = write_manifest(tmp_path, has_sources=False)
    status, summary, log = run(capsys, *(argument.format(path=path) for argument in arguments))
    assert (status, summary) == (2, None)
    assert text in log
    assert len(log.splitlines()) == 1


RUN = 'import sys\nfrom fisa_ros.tools.models import main\nsys.exit(main(sys.argv[1:]))'


def test_fetching_needs_no_torch(hub, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    block = 'import sys\nfor name in ("torch", "open_clip", "transformers", "rclpy"): sys.modules[name] = None\n'
    finished = subprocess.run(
        [sys.executable, '-c', block + RUN, 'download', path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert 'making weights of them needs torch, which is not installed: pip install torch' in finished.stderr
    assert 'Traceback' not in finished.stderr
    assert len([p for p in (tmp_path / 'models' / 'tiny-vit' / 'sources').rglob('*') if p.is_file()]) == 3


def test_what_a_killed_process_left_is_removed(hub, capsys, tmp_path):
    path = write_manifest(tmp_path)
    manifest = load_manifest(path)
    put_checkpoints(hub, tmp_path, manifest)
    assert run(capsys, 'download', path)[0] == 0
    ended = subprocess.Popen(['true'])
    ended.wait()
    name = manifest.weights.path.name
    left = [f'{start}.{socket.gethostname()}.{ended.pid}.tmp' for start in (name, f'.{name}.sum.json')]
    alive = [f'{name}.{socket.gethostname()}.{os.getppid()}.tmp', f'{name}.elsewhere.{ended.pid}.tmp']
    for file in (*left, *alive):
        (manifest.folder / file).write_bytes(b'part')
    assert run(capsys, 'download', path)[0] == 0
    assert not [file for file in left if (manifest.folder / file).exists()]
    assert all((manifest.folder / file).exists() for file in alive)


def test_old_weights_serve_until_the_new_ones_are_in_place(hub, capsys, monkeypatch, tmp_path):
    path = write_manifest(tmp_path)
    manifest = load_manifest(path)
    put_checkpoints(hub, tmp_path, manifest)
    run(capsys, 'download', path)
    before = load_manifest(path).weights
    put_checkpoints(hub, tmp_path, manifest, seed=1)
    summed = model_store.file_sha256

    def interrupted(file):
        if file.parent == before.path.parent:
            raise KeyboardInterrupt
        return summed(file)

    with monkeypatch.context() as patch:
        patch.setattr(model_store, 'file_sha256', interrupted)
        assert main(['download', str(path), '--force']) == 130
    assert load_manifest(path).weights == before
    verify_weights(load_manifest(path))
    assert run(capsys, 'download', path)[1]['state'] == 'assembled'
    assert load_manifest(path).weights.sha256 != before.sha256
    verify_weights(load_manifest(path))


def test_ctrl_c_leaves_what_was_fetched(hub, tmp_path):
    path = write_manifest(tmp_path)
    put_checkpoints(hub, tmp_path, load_manifest(path))
    hub.files[CLIP] = HubFile(Content(9 * BLOCK), pause_s=0.3)
    process = subprocess.Popen(
        [sys.executable, '-c', RUN, 'download', path], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / 'models' / 'tiny-vit' / 'sources' / 'classifier'
    deadline = time.monotonic() + 300.0
    while not any(part.stat().st_size for part in folder.glob('.*.part')):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate()
    assert process.returncode == 130
    assert log.splitlines()[-1] == 'interrupted: the same command goes on where this one stopped'
    assert 'Traceback' not in log
    assert any(part.stat().st_size for part in folder.glob('.*.part'))

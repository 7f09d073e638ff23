import json
import shutil

import numpy as np
import pytest

from fisa_ros.core.manifest import load_manifest, verify_weights
from fisa_ros.core.resources import share_dir
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools.export import main

FRAMES = share_dir() / 'models' / 'reference_frames'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'fisa_ros'


def one_frame(folder):
    folder.mkdir()
    shutil.copy(FRAMES / 'room_1.jpg', folder)
    return str(folder)


def test_a_random_model_runs_wherever_its_manifest_is_given(tmp_path, cache, capsys):
    out = tmp_path / 'random'
    arguments = ['--random-weights', '7', '--out', str(out), '--frames', one_frame(tmp_path / 'frames')]
    assert main([*arguments, '--vocabulary', 'chair; table; floor', '--json']) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary['manifest'] == str(out / 'fisa-tiny.yaml')
    assert summary['frames'] == 1
    assert sorted(path.name for path in out.iterdir()) == ['fisa-tiny.safetensors', 'fisa-tiny.yaml']
    manifest, shipped = load_manifest(summary['manifest']), load_manifest('fisa-tiny')
    verify_weights(manifest)
    assert manifest.weights.sha256 != shipped.weights.sha256
    assert (manifest.generator, manifest.classifier) == (shipped.generator, shipped.classifier)
    assert 'seed 7' in manifest.description
    segmenter = Segmenter.load(summary['manifest'], 'onnxruntime', 'cpu')
    embeddings = segmenter.backend.encode_text(['a chair'])
    assert np.linalg.norm(embeddings) == pytest.approx(1.0, abs=1e-5)
    segmenter.close()


def test_a_model_without_weights_says_how_to_try_it(capsys):
    assert main(['--model', 'fisa-s']) == 2
    assert 'tools.export --model fisa-s --random-weights' in capsys.readouterr().err


def test_one_frame_is_too_few_for_weights_that_count(tmp_path, capsys):
    assert main(['--frames', one_frame(tmp_path / 'frames')]) == 2
    assert 'has 1 images (.jpg, .jpeg, .png), at least 8 are needed' in capsys.readouterr().err

import json

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.simulation import dataset_writer
from fisa_ros.simulation.dataset_writer import SimulationSettings
from fisa_ros.tools.simulate import main


@pytest.fixture
def calls(monkeypatch):
    """Replace the writer by one that notes what it is asked for."""
    calls = []

    def write(out, settings, images, *, processes):
        calls.append((out, settings, images, processes))
        return images - 1

    monkeypatch.setattr(dataset_writer, 'write_dataset', write)
    return calls


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_set_is_written(tmp_path, capsys):
    options = ['--split', 'test', '--images', 2, '--size', '64x48', '--depth', '--processes', 1, '--json']
    code, stdout, stderr = run(capsys, '--out', tmp_path, *options)
    assert code == 0
    summary = json.loads(stdout)
    assert (summary['images'], summary['rendered'], summary['out']) == (2, 2, str(tmp_path))
    assert summary['seconds'] > 0
    assert 'image/s' in stderr
    assert '2/2' in stderr
    names = ['annotations', 'depth_test', 'test']
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    depth = cv2.imread(str(tmp_path / 'depth_test/00000001.png'), cv2.IMREAD_UNCHANGED)
    assert (depth.shape, depth.dtype) == ((48, 64), np.uint16)


def test_defaults_of_images(tmp_path, capsys, calls):
    code, stdout, _ = run(capsys, '--out', tmp_path, '--split', 'train', '--images', 12)
    assert code == 0
    assert '12 images of split train, 11 rendered' in stdout
    assert calls == [(tmp_path, SimulationSettings('train', (640, 480), 4, None, 0.25, False), 12, None)]


def test_options_of_images(tmp_path, capsys, calls):
    options = ['--views-per-room', 2, '--size', '320x240', '--shadows', 0.5, '--depth', '--processes', 3]
    run(capsys, '--out', tmp_path, '--split', 'test', '--images', 5, *options)
    assert calls == [(tmp_path, SimulationSettings('test', (320, 240), 2, None, 0.5, True), 5, 3)]


def test_options_of_sequences(tmp_path, capsys, calls):
    options = ['--sequences', 3, '--frames', 20, '--rate-hz', 15]
    run(capsys, '--out', tmp_path, '--split', 'validation', *options)
    assert calls == [(tmp_path, SimulationSettings('validation', (640, 480), 20, 15.0), 60, None)]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--images', 0], 'error: a data set has 1 image or more, got 0\n'),
        (['--images', 5, '--views-per-room', 0], 'error: images per room must be 1 or more, got 0\n'),
        (['--images', 5, '--size', '8x8'], 'error: width and height must be in [16, 4096], got 8x8\n'),
        (['--images', 5, '--shadows', 2], 'error: share of shadows must be in [0, 1], got 2.0\n'),
        (['--images', 5, '--processes', -1], 'error: processes must be 1 or more, got -1\n'),
        (['--sequences', 5, '--rate-hz', 0], 'error: rate must be in [0.1, 1000] Hz, got 0.0\n'),
    ],
)
def test_values_out_of_range(tmp_path, capsys, options, message):
    assert run(capsys, '--out', tmp_path / 'out', '--split', 'train', '--json', *options) == (2, '', message)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--split', 'val', '--images', '5'], "invalid choice: 'val'"),
        (['--split', 'train'], 'one of the arguments --images --sequences is required'),
        (['--split', 'train', '--images', '5', '--sequences', '1'], 'not allowed with argument --images'),
        (['--split', 'train', '--images', '5', '--size', '640'], "must be WIDTHxHEIGHT such as 640x480, got '640'"),
    ],
)
def test_unknown_options(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as exit_:
        main(['--out', str(tmp_path), *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('error', 'code', 'message'),
    [
        (DataError('the disk is full'), 2, 'error: the disk is full\n'),
        (KeyboardInterrupt(), 130, 'stopped; the same command goes on in '),
    ],
)
def test_what_stops_a_run(tmp_path, capsys, monkeypatch, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(dataset_writer, 'write_dataset', fail)
    found, stdout, stderr = run(capsys, '--out', tmp_path, '--split', 'train', '--images', 5, '--json')
    assert (found, stdout) == (code, '')
    assert stderr.startswith(message)

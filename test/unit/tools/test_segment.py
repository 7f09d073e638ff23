import json

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools.segment import main

WORDS = 'red flag; blue flag, navy; green, lawn'


@pytest.fixture(autouse=True)
def color_segmenter(monkeypatch, color_backend, color_manifest):
    monkeypatch.setattr(
        Segmenter, 'load', lambda model, backend, device, precision: Segmenter(color_backend, color_manifest)
    )
    return color_backend


@pytest.fixture
def photos(tmp_path, flags):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name in ('one.png', 'two.jpg'):
        cv2.imwrite(str(folder / name), flags[..., ::-1])
    (folder / 'notes.txt').write_text('no image')
    (folder / 'inner.png').mkdir()
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_file(tmp_path, photos, flags, capsys):
    out = tmp_path / 'out'
    code, stdout, _ = run(capsys, photos / 'one.png', '--out', out, '--vocabulary', WORDS)
    assert code == 0
    assert 'one.png: green, blue flag, red flag x2 (' in stdout
    names = ['one.json', 'one_instances.png', 'one_overlay.png', 'one_semantic.png']
    assert sorted(path.name for path in out.iterdir()) == names
    semantic, instances, overlay = (
        cv2.imread(str(out / f'one_{kind}.png'), cv2.IMREAD_UNCHANGED) for kind in ('semantic', 'instances', 'overlay')
    )
    assert (semantic.dtype, instances.dtype, overlay.dtype) == (np.uint8, np.uint16, np.uint8)
    assert semantic.shape == instances.shape == flags.shape[:2]
    assert overlay.shape == flags.shape
    report = json.loads((out / 'one.json').read_text())
    assert report['size_hw'] == [120, 160]
    assert 0.9 < report['labeled'] <= 1.0
    assert [segment['class_name'] for segment in report['segments']] == ['green', 'blue flag', 'red flag', 'red flag']
    for segment in report['segments']:
        assert np.count_nonzero(instances == segment['id']) == segment['area']
        assert (semantic[instances == segment['id']] == segment['class_id']).all()


def test_a_folder_as_json(tmp_path, photos, capsys):
    code, stdout, _ = run(capsys, photos, '--out', tmp_path / 'out', '--vocabulary', WORDS, '--json')
    assert code == 0
    summary = json.loads(stdout)
    assert [image['image'] for image in summary['images']] == [str(photos / 'one.png'), str(photos / 'two.jpg')]
    assert summary['failed'] == []
    assert summary['model'] == 'color'
    assert (summary['backend'], summary['device']) == ('color', 'cpu')
    assert [entry['id'] for entry in summary['classes']] == [1, 2, 3]
    assert summary['thresholds']['score'] == 0.9


def test_broken_files_are_skipped_and_reported(tmp_path, photos, capsys):
    (photos / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    (photos / 'empty.jpg').write_bytes(b'')
    for name in ('one.png', 'two.jpg'):
        whole = (photos / name).read_bytes()
        (photos / f'half_{name}').write_bytes(whole[: len(whole) // 2])
    code, stdout, _ = run(capsys, photos, '--out', tmp_path / 'out', '--vocabulary', WORDS, '--json')
    assert code == 1
    summary = json.loads(stdout)
    assert len(summary['images']) == 2
    assert [failure['image'] for failure in summary['failed']] == [
        str(photos / 'broken.png'),
        str(photos / 'empty.jpg'),
        str(photos / 'half_one.png'),
        str(photos / 'half_two.jpg'),
    ]
    errors = [failure['error'].rpartition(' cannot be read as an image: ')[2] for failure in summary['failed']]
    assert errors[0] == errors[2] == errors[3] == 'its end is missing'
    assert 'cannot identify image file' in errors[1]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{tmp}/none', '--vocabulary', WORDS], 'none is neither a file nor a folder'),
        (['{tmp}', '--vocabulary', WORDS], 'no image in'),
        (['{photos}', '--vocabulary', 'cat; cat'], "name 'cat' occurs in two classes"),
        (['{photos}', '--vocabulary', ''], 'the vocabulary is empty'),
        (['{photos}', '--vocabulary', '; '.join(f'w{i}' for i in range(300))], 'mask_encoding: mono16'),
        (['{photos}', '--vocabulary', 'none.yaml'], 'none.yaml does not exist'),
        (['{photos}', '--vocabulary', WORDS, '--out', '{photos}/one.png'], 'one.png'),
    ],
)
def test_what_cannot_be_done(tmp_path, photos, capsys, arguments, message):
    filled = [argument.format(tmp=tmp_path, photos=photos) for argument in arguments]
    out = [] if '--out' in arguments else ['--out', tmp_path / 'out']
    code, stdout, stderr = run(capsys, *filled, *out)
    assert code == 2
    assert stdout == ''
    assert stderr.startswith('error: ')
    assert message in stderr


def test_a_model_that_cannot_be_loaded(photos, tmp_path, capsys, monkeypatch):
    def fail(model, backend, device, precision):
        raise BackendUnavailableError('pip install torch')

    monkeypatch.setattr(Segmenter, 'load', fail)
    code, _, stderr = run(capsys, photos, '--out', tmp_path / 'out', '--vocabulary', WORDS)
    assert (code, stderr) == (2, 'error: pip install torch\n')


@pytest.mark.parametrize('option', [['--backend', 'caffe'], ['--mask-encoding', 'rgb8']])
def test_options_refused(photos, capsys, option):
    with pytest.raises(SystemExit) as exit_:
        main([str(photos), *option])
    assert exit_.value.code == 2
    assert option[1] in capsys.readouterr().err


def test_a_threshold_refused(tmp_path, photos, capsys):
    code, stdout, stderr = run(capsys, photos, '--out', tmp_path / 'out', '--score-threshold', '1.5')
    assert (code, stdout, stderr) == (2, '', 'error: threshold score must be in [0, 1], got 1.5\n')


def test_thresholds_and_encoding(tmp_path, photos, capsys):
    out = tmp_path / 'out'
    options = ['--score-threshold', '0.3', '--overlap-threshold', '0.6', '--mask-encoding', 'mono16', '--json']
    code, stdout, _ = run(capsys, photos / 'one.png', '--out', out, '--vocabulary', WORDS, *options)
    assert code == 0
    thresholds = json.loads(stdout)['thresholds']
    assert (thresholds['score'], thresholds['mask'], thresholds['overlap']) == (0.3, 0.5, 0.6)
    assert cv2.imread(str(out / 'one_semantic.png'), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_the_model_is_closed(tmp_path, photos, capsys, color_segmenter):
    run(capsys, photos, '--out', tmp_path / 'out', '--vocabulary', WORDS)
    assert color_segmenter.is_closed


def test_two_files_with_one_name(tmp_path, photos, flags, capsys):
    cv2.imwrite(str(photos / 'one.jpg'), flags)
    run(capsys, photos, '--out', tmp_path / 'out', '--vocabulary', WORDS)
    written = {path.name for path in (tmp_path / 'out').glob('*.json')}
    assert written == {'one_png.json', 'one_jpg.json', 'two.json'}


def test_results_beside_the_images_are_not_taken_for_images(photos, capsys):
    for _ in range(2):
        code, stdout, _ = run(capsys, photos, '--out', photos, '--vocabulary', WORDS, '--json')
        assert len(json.loads(stdout)['images']) == 2
        assert code == 0

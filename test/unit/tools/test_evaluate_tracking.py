import json

import cv2
import pytest

from fisa_ros.tools.evaluate_tracking import main


def run(capsys, *arguments):
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_shipped_model_in_a_room(tmp_path, capsys):
    plot = tmp_path / 'new' / 'ids.png'
    code, out, _ = run(capsys, '--rooms', '1', '--seconds', '3', '--json', '--plot', str(plot))
    assert code == 0
    summary = json.loads(out)
    assert summary['frames'] == 30
    without, tracked = summary['without'], summary['tracked']
    assert without['matched'] > 30
    assert without['id_switches'] > 10
    assert tracked['id_switches'] < without['id_switches'] / 3
    assert tracked['pq'] > without['pq'] - 0.03
    assert cv2.imread(str(plot)).shape[1] > 1000


def test_the_table(capsys):
    code, out, _ = run(capsys, '--rooms', '1', '--seconds', '0.1', '--split', 'validation')
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:] if line}
    assert out.splitlines()[0].split() == ['without', 'tracked', 'ratio']
    assert rows['id_switches'] == ['0', '0', '-']
    assert rows['pq'][2] == '1.000'
    assert '1 frames of 1 rooms of split validation at 10 Hz' in out


@pytest.mark.parametrize(
    ('option', 'value'), [('--rooms', '0'), ('--seconds', '-1'), ('--seconds', 'nan'), ('--rate-hz', 'inf')]
)
def test_numbers_out_of_range(capsys, option, value):
    code, out, err = run(capsys, option, value)
    assert (code, out) == (2, '')
    assert err.startswith(f'error: {option} must be above 0 and finite')


def test_words_that_no_room_has(capsys):
    code, _, err = run(capsys, '--vocabulary', 'unicorn')
    assert code == 2
    assert 'in no class of the vocabulary' in err

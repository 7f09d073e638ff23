import json
import subprocess
import sys

import pytest

from fisa_ros.tools import evaluate_depth

QUICK = ['--rooms', '1', '--views', '1']


def test_true_masks_are_summarised_as_json(capsys):
    assert evaluate_depth.main([*QUICK, '--noise', '0.0025', '--holes', '0.1', '--flying', '1', '--json']) == 0
    output = capsys.readouterr().out
    assert output.count('\n') == 1
    summary = json.loads(output)
    assert (summary['views'], summary['masks']) == (1, 'truth')
    assert summary['noise'] == {'noise_per_m2': 0.0025, 'hole_share': 0.1, 'flying_px': 1}
    assert set(summary['near_2_m']) == {'box', 'ball'}
    whole = summary['whole']
    assert 0 < whole['found'] <= whole['n'] <= summary['all']['n']
    assert 0 < whole['center_median_m'] < 0.5
    assert sum(entry['n'] for entry in summary['by_distance'].values()) == whole['n']
    assert sum(entry['n'] for entry in summary['by_kind'].values()) == whole['n']


def test_people_get_a_table(capsys):
    assert evaluate_depth.main(QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('1 views of 1 rooms, masks: truth')
    assert any(line.startswith('all whole') for line in lines)


@pytest.mark.slow
def test_masks_of_a_model_find_no_more_than_there_is():
    # In a process of its own: torch cannot be loaded after OpenGL was used.
    command = [sys.executable, '-m', 'fisa_ros.tools.evaluate_depth', *QUICK, '--masks', 'model', '--json']
    output = subprocess.run([*command, '--backend', 'torch', '--device', 'cpu'], check=True, capture_output=True).stdout
    summary = json.loads(output)
    assert summary['masks'] == 'fisa-tiny'
    assert summary['all']['found'] <= summary['all']['n']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rooms', '0'], '--rooms and --views must be at least 1, got 0 and 3'),
        (['--holes', '1'], '--noise and --flying must be at least 0 and --holes in [0, 1), got 0, 0 and 1'),
        (['--noise', 'nan'], 'got nan, 0 and 0'),
    ],
)
def test_values_out_of_range_are_refused(arguments, message, capsys):
    assert evaluate_depth.main(arguments) == 2
    assert message in capsys.readouterr().err

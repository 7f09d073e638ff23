import json

import pytest

from fisa_ros.tools import evaluate, reproduce
from fisa_ros.tools.reproduce import METRICS, VARIANTS, main, markdown


def row(value, parameters=10, cpu_seconds=100.0):
    return {'parameters': parameters, 'cpu_seconds': cpu_seconds, **dict.fromkeys(METRICS, value)}


def test_cells_are_means_and_half_ranges():
    text = markdown({'untrained': [row(0.25, 0, 0.0)], 'fisa': [row(0.3), row(0.5, cpu_seconds=140.0)]}, 2)
    lines = text.splitlines()
    assert lines[2].startswith('| mask tokens, untrained | 0 | 0 | 0.250 |')
    assert lines[3].startswith('| FISA: queries + SEVE | 10 | 120 ± 20 | 0.400 ± 0.100 |')
    assert all(line.count('|') == lines[0].count('|') for line in lines[1:4])


def test_what_was_not_measured_stays_empty():
    text = markdown({'fisa': [row(None)]}, 1)
    assert text.splitlines()[2].endswith('|  |  |  |  |  |  |  |  |')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--variants', 'fisa,magic'], 'unknown variants magic, known are pooled-tokens'),
        (['--seeds', '0'], 'must be 1 or more'),
        (['--steps', '-1'], 'must be 1 or more'),
    ],
)
def test_impossible_arguments_are_refused(capsys, tmp_path, arguments, message):
    assert main(['--out', str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_trainings_that_were_measured_are_not_repeated(monkeypatch, tmp_path, capsys):
    trained = []

    def train(variant, seed, folder, options):
        trained.append((variant.title, seed))
        return folder / 'model.yaml', {'parameters': 5, 'cpu_seconds': 10.0 + seed}

    monkeypatch.setattr(reproduce, '_trained', train)
    monkeypatch.setattr(reproduce, '_evaluated', lambda *_: dict.fromkeys(METRICS, 0.5))
    arguments = ['--out', str(tmp_path), '--seeds', '2', '--variants', 'untrained,queries', '--json']
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry['cpu_seconds'] for entry in printed['queries']] == [10.0, 11.0]
    title = VARIANTS['queries'].title
    assert trained == [(VARIANTS['untrained'].title, 0), (title, 0), (title, 1)]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == printed
    assert len(trained) == 3
    # Other settings are another measurement.
    assert main([*arguments, '--steps', '7']) == 0
    assert len(trained) == 6


def test_other_data_are_another_measurement(tmp_path):
    options = reproduce._parser().parse_args(['--data', str(tmp_path), '--stages', str(tmp_path)])
    before = reproduce._settings(VARIANTS['fisa'], options)
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'panoptic_test.json').write_text('{}')
    assert reproduce._settings(VARIANTS['fisa'], options) != before
    assert reproduce._settings(VARIANTS['fiser'], options) != reproduce._settings(VARIANTS['fisa'], options)


def test_no_row_is_scored_with_thresholds_of_its_model(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(reproduce, '_command', lambda tool, *arguments: commands.append((tool, arguments)) or {})
    options = reproduce._parser().parse_args(['--data', str(tmp_path)])
    for variant in VARIANTS.values():
        reproduce._evaluated(tmp_path / 'model.yaml', variant, options)
    assert {tool for tool, _ in commands} == {'evaluate'}
    given = [evaluate._parser().parse_args(arguments) for _, arguments in commands]
    assert {(entry.score, entry.mask, entry.overlap) for entry in given} == {(0.2, 0.4, 0.5)}

import json

import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.simulation.render_journal import RenderJournal

ARGUMENTS = {'split': 'test', 'size_wh': (640, 480), 'shadow_share': 0.25}


def record(number):
    return {'image': {'id': number}, 'captions': ['a chair'] * number}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'journal.jsonl'
    with RenderJournal(path, ARGUMENTS) as journal:
        for number in (1, 2):
            journal.add(record(number))
    return path


def test_what_was_noted_is_there_again(path):
    with RenderJournal(path, ARGUMENTS) as journal:
        assert journal.records == {1: record(1), 2: record(2)}
        journal.add(record(3))
        # Killed from here on, the run has lost nothing.
        assert len(path.read_bytes().splitlines()) == 4
    with RenderJournal(path, ARGUMENTS) as journal:
        assert set(journal.records) == {1, 2, 3}


def test_a_half_written_line_is_cut_off_wherever_the_run_was_killed(path, tmp_path):
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    ends = [sum(map(len, lines[: count + 1])) for count in range(3)]
    for size in range(len(content) + 1):
        cut = tmp_path / 'cut.jsonl'
        cut.write_bytes(content[:size])
        with RenderJournal(cut, ARGUMENTS) as journal:
            known = len(journal.records)
            assert known == max(sum(size >= end for end in ends) - 1, 0)
            for number in range(known + 1, 3):
                journal.add(record(number))
        assert cut.read_bytes() == content


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'shadow_share': 0.5}, r'begun with shadow_share 0\.25, not 0\.5; take another folder'),
        ({'size_wh': (32, 24)}, r'begun with size_wh \[640, 480\], not \[32, 24\]'),
        ({'depth': True}, 'begun with depth None, not True'),
    ],
)
def test_other_arguments_are_refused_and_change_nothing(path, change, message):
    before = path.read_bytes()
    with pytest.raises(DataError, match=message):
        RenderJournal(path, {**ARGUMENTS, **change})
    assert path.read_bytes() == before


@pytest.mark.parametrize('line', ['{"image"', '[]', '{"image": {}}', '7', '\x00'])
def test_broken_files_are_refused(path, line):
    with path.open('a') as file:
        file.write(line + '\n' + json.dumps(record(3)) + '\n')
    with pytest.raises(DataError, match=r'journal\.jsonl is broken'):
        RenderJournal(path, ARGUMENTS)


def test_two_runs_at_once_are_refused(path):
    with RenderJournal(path, ARGUMENTS), pytest.raises(DataError, match='another run is writing this data set'):
        RenderJournal(path, ARGUMENTS)
    with RenderJournal(path, ARGUMENTS):
        pass

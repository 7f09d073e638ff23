import subprocess
import sys
import time

import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.training.checkpoint import write_atomically

WRITER = """
from pathlib import Path
import sys, time
from fisa_ros.training.checkpoint import write_atomically

folder, own, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def halves(file):
    file.write(own.encode() * 100_000)
    file.flush()
    (folder / f'begun_{own}').touch()
    while not (folder / f'begun_{other}').exists():
        time.sleep(0.01)
    file.write(own.encode() * 100_000)

write_atomically(folder / 'file', halves)
"""


def test_two_processes_that_write_one_file_leave_one_of_theirs(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, '-c', WRITER, str(tmp_path), *letters])
        for letters in (('a', 'b'), ('b', 'a'))
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert (tmp_path / 'file').read_bytes() in (b'a' * 200_000, b'b' * 200_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['begun_a', 'begun_b', 'file']


@pytest.mark.parametrize(
    ('raised', 'seen'), [(OSError('disk full'), DataError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, raised, seen):
    path = tmp_path / 'file'
    path.write_bytes(b'old')

    def fail(file):
        file.write(b'new')
        raise raised

    with pytest.raises(seen):
        write_atomically(path, fail)
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    writer = subprocess.Popen([sys.executable, '-c', WRITER, str(tmp_path), 'a', 'b'])
    while not (tmp_path / 'begun_a').exists():
        assert writer.poll() is None
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    (left,) = tmp_path.glob('file.*.tmp')
    other = left.rename(tmp_path / left.name.replace('file', 'another'))
    left.touch()
    write_atomically(tmp_path / 'file', lambda file: file.write(b'new'))
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, 'begun_a', 'file']

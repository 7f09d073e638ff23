import os
import shutil
import subprocess
import time

import pytest

from fisa_ros.core.weights_sum import sha256_of
from fisa_ros.runtime import verified_files
from fisa_ros.runtime.verified_files import NOTES_FILE, find_damaged


@pytest.fixture
def folder(tmp_path):
    """Two files that were written a while ago."""
    folder = tmp_path / 'graphs'
    folder.mkdir()
    for name in ('a.onnx', 'b.onnx'):
        (folder / name).write_text(f'graph {name}')
        os.utime(folder / name, (time.time() - 100,) * 2)
    return folder


@pytest.fixture
def sums(folder):
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


@pytest.fixture
def read(monkeypatch):
    """Names of the files that were read, in order."""
    names = []

    def sha256(path):
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(verified_files, 'sha256_of', sha256)
    return names


def test_files_are_read_once(folder, sums, read):
    for _ in range(3):
        assert find_damaged(folder, sums) == {}
    assert read == ['a.onnx', 'b.onnx']


def damage_in_place(path):
    with path.open('r+b') as file:
        file.write(b'G')


def damage_and_hide_the_time(path):
    stat = path.stat()
    damage_in_place(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace_by_another_of_the_same_time(path):
    other = path.with_name('other')
    other.write_text('Graph b.onnx')
    shutil.copystat(path, other)
    other.replace(path)


@pytest.mark.parametrize(
    'damage',
    [
        damage_in_place,
        damage_and_hide_the_time,
        replace_by_another_of_the_same_time,
        lambda path: os.truncate(path, 3),
        lambda path: path.write_text('graph b.onnx and more'),
    ],
)
def test_what_was_changed_is_found(folder, sums, read, damage):
    find_damaged(folder, sums)
    read.clear()
    damage(folder / 'b.onnx')
    for _ in range(2):
        assert find_damaged(folder, sums) == {'b.onnx': sha256_of(folder / 'b.onnx')}
    assert read == ['b.onnx', 'b.onnx']


def test_a_file_that_was_touched_is_read_once_more(folder, sums, read):
    find_damaged(folder, sums)
    os.utime(folder / 'a.onnx', (time.time() - 50,) * 2)
    for _ in range(2):
        assert find_damaged(folder, sums) == {}
    assert read == ['a.onnx', 'b.onnx', 'a.onnx']


def test_a_file_that_should_be_another_is_read(folder, sums):
    find_damaged(folder, sums)
    assert find_damaged(folder, {**sums, 'a.onnx': 'f' * 64}) == {'a.onnx': sums['a.onnx']}


def test_a_file_that_was_just_written_is_not_trusted_yet(folder, sums, read):
    (folder / 'a.onnx').write_text('graph a.onnx')
    for _ in range(2):
        find_damaged(folder, sums)
    assert read == ['a.onnx', 'b.onnx', 'a.onnx']


def test_copies_are_read(folder, sums, read, tmp_path):
    find_damaged(folder, sums)
    shutil.copytree(folder, tmp_path / 'copy')
    find_damaged(tmp_path / 'copy', sums)
    assert read == ['a.onnx', 'b.onnx'] * 2


def test_a_missing_file_is_named(folder, sums):
    find_damaged(folder, sums)
    (folder / 'b.onnx').unlink()
    with pytest.raises(FileNotFoundError, match=r'b\.onnx'):
        find_damaged(folder, sums)


@pytest.mark.parametrize('text', [b'', b'[]', b'{"a.onnx": 3}', b'{"a.onnx": [1, 2]', b'\xff'])
def test_damaged_notes_are_none(folder, sums, read, text):
    (folder / NOTES_FILE).write_bytes(text)
    assert find_damaged(folder, sums) == {}
    assert read == ['a.onnx', 'b.onnx']
    find_damaged(folder, sums)
    assert len(read) == 2


def test_where_no_notes_can_be_written_files_are_read_each_time(small_disk, folder, sums, read):
    shutil.copytree(folder, small_disk / 'graphs')
    subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
    for _ in range(2):
        assert find_damaged(small_disk / 'graphs', sums) == {}
    assert len(read) == 4

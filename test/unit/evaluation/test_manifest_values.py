import errno
import os
import shutil

import pytest
import yaml

from fisa_ros.core.errors import ManifestError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.evaluation.manifest_values import set_values, write_values

TEXT = """\
# What it is.
name: tiny   # short

classifier:
  type: tiny
  blocks: [1,
           2]
  width: 192  # narrow
# below
text_encoder: {type: sentence}
thresholds: {score: 0.25, mask: 0.4}  # by hand
"""


def test_only_the_values_change():
    changed = set_values(TEXT, {'thresholds': {'mask': 0.45}, 'classifier': {'width': 1.5}})
    assert changed == TEXT.replace('mask: 0.4', 'mask: 0.45').replace('width: 192', 'width: 1.5')


def test_what_is_not_there_is_added():
    changed = set_values(TEXT, {'thresholds': {'overlap': 0.5}, 'classifier': {'temperature': 1.3}})
    assert changed == TEXT.replace('mask: 0.4}', 'mask: 0.4, overlap: 0.5}').replace(
        'width: 192  # narrow\n', 'width: 192  # narrow\n  temperature: 1.3\n'
    )


def test_a_nested_block_is_not_cut():
    text = 'classifier:\n  type: tiny\n  stem:\n    channels: 3\nname: x'
    changed = set_values(text, {'classifier': {'temperature': 2.0}})
    assert changed == 'classifier:\n  type: tiny\n  temperature: 2.0\n  stem:\n    channels: 3\nname: x'


def test_the_end_of_a_file_without_a_newline():
    assert set_values('a:\n  b: 1', {'a': {'c': 2.5}}) == 'a:\n  b: 1\n  c: 2.5'


@pytest.mark.parametrize('text', ['name: x', 'thresholds: 3', 'thresholds: {}', 'thresholds:\n  - 1', '[1]', ''])
def test_texts_without_the_section(tmp_path, text):
    path = tmp_path / 'x.yaml'
    path.write_text(text)
    with pytest.raises(ManifestError, match=r'x\.yaml cannot be changed: it has no mapping'):
        write_values(path, {'thresholds': {'score': 0.5}})
    assert path.read_text() == text


@pytest.mark.parametrize('text', ['a: [', 'base: &b {score: 1}\nthresholds: *b\n'])
def test_texts_too_unusual(tmp_path, text):
    path = tmp_path / 'x.yaml'
    path.write_text(text)
    with pytest.raises(ManifestError, match='cannot be changed'):
        write_values(path, {'thresholds': {'score': 0.5}})
    assert path.read_text() == text
    with pytest.raises(ManifestError, match='cannot be changed'):
        write_values(tmp_path / 'none.yaml', {})


def test_a_calibrated_copy_keeps_the_weights_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'models'))
    shipped = load_manifest('fisa-s')
    shipped.folder.mkdir(parents=True)
    shipped.weights.path.write_bytes(b'made')
    path = tmp_path / 'fisa-s.yaml'
    shutil.copy(shipped.path, path)
    write_values(path, {'classifier': {'temperature': 0.9}, 'thresholds': {'score': 0.3}})
    calibrated = load_manifest(path)
    assert calibrated.classifier['temperature'] == 0.9
    assert calibrated.weights == load_manifest('fisa-s').weights
    assert calibrated.weights.sha256 is not None


def test_a_manifest_that_cannot_be_written_stays(tmp_path, monkeypatch):
    path = tmp_path / 'fisa-s.yaml'
    shutil.copy(load_manifest('fisa-s').path, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(ManifestError, match=r'fisa-s\.yaml cannot be written: .*space'):
        write_values(path, {'thresholds': {'score': 0.3}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_shipped_manifest_can_be_written(tmp_path):
    source = load_manifest('fisa-tiny').weights.path.with_suffix('.yaml')
    path = tmp_path / source.name
    path.write_text(source.read_text())
    write_values(path, {'classifier': {'temperature': 1.25}, 'thresholds': {'score': 0.31, 'objectness_trust': 0.0}})
    manifest = load_manifest(path)
    assert manifest.classifier['temperature'] == 1.25
    assert (manifest.thresholds.score, manifest.thresholds.objectness_trust) == (0.31, 0.0)
    before, after = (yaml.safe_load(text.read_text()) for text in (source, path))
    for document in (before, after):
        document['classifier'].pop('temperature', None)
        document.pop('thresholds')
    assert before == after
    assert [entry.name for entry in tmp_path.iterdir()] == [source.name]

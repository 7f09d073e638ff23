from dataclasses import replace
import json

import numpy as np
import pytest
import yaml

from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools.calibrate import main

PIXELS = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [3, 3, 3, 3]]).repeat(4, axis=0).repeat(4, axis=1)
SEEN = [[0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2], [2, 2, 2, 2]]
MASKS = [
    [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
]
MANIFEST = """\
name: scripted  # by hand
classifier:
  type: scripted
thresholds: {score: 0.3, mask: 0.5, overlap: 0.5}
"""


@pytest.fixture
def files(write_panoptic):
    frame = (np.zeros((16, 16, 3), np.uint8), PIXELS, {1: 1, 2: 2, 3: 3})
    images, path = write_panoptic([(1, 'cat', True), (2, 'dog', True), (3, 'grass', False)], [frame] * 2)
    return ['--images', str(images), '--panoptic', str(path)]


@pytest.fixture
def segmenter(monkeypatch, scripted_segmenter):
    segmenter = scripted_segmenter(('cat', 'dog', 'grass'), SEEN, MASKS)
    segmenter.backend.objectness[1] = 0.5
    monkeypatch.setattr(Segmenter, 'load', lambda model, backend, device, precision: segmenter)
    return segmenter


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_table_and_nothing_written(segmenter, files, capsys):
    code, out, _ = run(capsys, *files)
    assert code == 0
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert table['before'] == ['after']
    assert float(table['temperature'][1]) > float(table['temperature'][0]) == 1
    assert float(table['ece_masks'][1]) < float(table['ece_masks'][0])
    assert float(table['pq'][0]) == pytest.approx((1 / 2 + 0 + 1) / 3, abs=1e-3)
    assert float(table['pq'][1]) == pytest.approx((3 / 4 + 0 + 1) / 3, abs=1e-3)
    assert 'nothing written' in out
    assert segmenter.backend.is_closed


def test_what_was_found_is_written(segmenter, files, capsys, tmp_path):
    path = tmp_path / 'scripted.yaml'
    path.write_text(MANIFEST)
    code, out, _ = run(capsys, *files, '--write', path, '--json')
    assert code == 0
    after = json.loads(out)['after']
    text = path.read_text()
    assert text.startswith('name: scripted  # by hand\nclassifier:\n  type: scripted\n  temperature: ')
    document = yaml.safe_load(text)
    assert document['classifier']['temperature'] == after['temperature']
    assert document['thresholds'] == {name: after[name] for name in ('score', 'mask', 'overlap', 'objectness_trust')}


def cat_and_grass_or_dog(vocabulary):
    classes = vocabulary.classes
    return [replace(vocabulary, classes=part) for part in (classes[::2], classes[1:2])]


def test_labels_on_removed_classes_are_shown_when_limited(segmenter, files, capsys, monkeypatch):
    monkeypatch.setattr('fisa_ros.evaluation.calibrate_model.halves', cat_and_grass_or_dog)
    summary = json.loads(run(capsys, *files, '--max-mislabelled', 0.15, '--json')[1])
    # Without the dog its 4 of 16 cells are called a cat.
    assert summary['before']['removed_mislabelled'] == pytest.approx(4 / 16)
    assert summary['after']['removed_mislabelled'] <= 0.15
    assert json.loads(run(capsys, *files, '--json')[1])['after']['removed_mislabelled'] is None


def test_training_words_may_be_used_and_held_out_words_may_not(segmenter, files, capsys, tmp_path):
    synonyms = tmp_path / 'synonyms.yaml'
    synonyms.write_text('{cat: {training: [dog]}, dog: {training: [cat]}, grass: {training: [grass]}}')
    summary = json.loads(run(capsys, *files, '--words', 'training', '--synonyms', synonyms, '--json')[1])
    # The words are swapped: of what the model sees as a cat only the dog is right.
    assert summary['before']['pq'] == pytest.approx((0 + 1 / 1.5 + 1) / 3)
    with pytest.raises(SystemExit):
        main([*files, '--words', 'held_out'])


def test_no_predicted_mask_lies_on_an_object(segmenter, files, capsys):
    segmenter.backend.masks[:] = 0
    segmenter.backend.masks[:, 0, 0] = 1
    summary = json.loads(run(capsys, *files, '--json')[1])
    assert summary['before']['ece_predicted_masks'] is None
    assert run(capsys, *files)[0] == 0


def test_an_unreachable_limit_writes_nothing(segmenter, files, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr('fisa_ros.evaluation.calibrate_model.halves', cat_and_grass_or_dog)
    monkeypatch.setattr('fisa_ros.evaluation.calibrate_model.fit_temperature', lambda log_probabilities, rows: 1.0)
    segmenter.backend.objectness[:] = 1.0
    path = tmp_path / 'scripted.yaml'
    path.write_text(MANIFEST)
    code, out, err = run(capsys, *files, '--max-mislabelled', 0.1, '--write', path)
    assert (code, out) == (2, '')
    assert 'error: --max-mislabelled 0.1 cannot be reached' in err
    assert path.read_text() == MANIFEST


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'No such file'),
        ('name: x', "no mapping 'classifier'"),
        (MANIFEST.replace('thresholds', 'other'), "no mapping 'thresholds'"),
        (MANIFEST.replace('scripted  #', 'another  #'), "it is of model 'another', not 'scripted'"),
    ],
)
def test_where_to_write_is_checked_before_the_work(segmenter, files, capsys, tmp_path, text, message):
    path = tmp_path / 'broken.yaml'
    if text is not None:
        path.write_text(text)
    code, out, err = run(capsys, *files, '--write', path)
    assert (code, out) == (2, '')
    assert f'error: model manifest {path} cannot be changed' in err
    assert message in err
    assert segmenter.backend.proposed_images == 0
    assert segmenter.backend.is_closed
    assert (path.read_text() if path.exists() else None) == text


def test_what_cannot_be_done(segmenter, files, capsys):
    for option, value, text in (
        ('--limit', 0, '--limit must be'),
        ('--max-mislabelled', 1.5, '--max-mislabelled must be'),
        ('--score-threshold', 2, 'threshold score must be in [0, 1], got 2.0'),
    ):
        code, _, err = run(capsys, *files, option, value)
        assert code == 2
        assert f'error: {text}' in err

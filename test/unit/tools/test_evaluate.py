import json

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.core.manifest import load_manifest

# Before anything renders: LLVM of triton and of the software renderer start in this order only.
import fisa_ros.networks.build  # noqa: F401
from fisa_ros.runtime.graph_files import graphs_folder
from fisa_ros.simulation.camera import SceneCamera
from fisa_ros.simulation.categories import CATEGORIES
from fisa_ros.tools import evaluate
from fisa_ros.tools.evaluate import main

PIXELS = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [3, 3, 3, 3]]).repeat(4, axis=0).repeat(4, axis=1)
SEEN = [[0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2], [2, 2, 2, 2]]
MASKS = [
    [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
]


@pytest.fixture
def files(write_panoptic):
    categories = [(0, 'cat', True), (7, 'dog', True), (300, 'grass-merged', False)]
    frame = (np.zeros((16, 16, 3), np.uint8), PIXELS, {1: 0, 2: 7, 3: 300})
    images, path = write_panoptic(categories, [frame] * 3)
    return ['--images', str(images), '--panoptic', str(path)]


@pytest.fixture
def segmenter(monkeypatch, scripted_segmenter):
    segmenter = scripted_segmenter(('cat', 'dog', 'grass'), SEEN, MASKS)
    monkeypatch.setattr(evaluate, 'open_segmenter', lambda manifest, backend, device, precision: segmenter)
    return segmenter


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_json_object(segmenter, files, capsys):
    code, out, _ = run(capsys, *files, '--json')
    assert code == 0
    summary = json.loads(out)
    assert summary['pq'] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert summary['miou'] == pytest.approx((3 / 8 + 0 + 1) / 3)
    assert summary['mask_accuracy'] == pytest.approx(2 / 3)
    assert {'sq', 'rq', 'ap', 'seconds', 'ece_masks', 'ece_segments', 'pq_class_agnostic'} <= summary.keys()
    assert (summary['images'], summary['model'], summary['backend']) == (3, 'scripted', 'scripted')
    assert (summary['precision'], summary['resize']) == ('fp32', 'stretch')
    assert list(summary['per_class']) == ['cat', 'dog', 'grass-merged']
    assert summary['thresholds']['score'] == 0.3
    assert 'removed_mislabelled' not in summary
    assert segmenter.backend.is_closed


def test_a_table(segmenter, files, capsys):
    code, out, _ = run(capsys, *files, '--limit', 2, '--removed-words', 'half')
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines['dog'][0] == '0.000'
    assert lines['grass-merged'] == ['1.000', '1.000', '1.000', '1.000', '-', '1.000']
    assert lines['pq'] == ['0.500']
    assert 'removed_mislabelled' in lines
    assert not {'images', 'scored'} & lines.keys()
    assert '2 images in' in out


def test_oracles(segmenter, files, capsys):
    expected = {'masks': (1 / 1.5 + 0 + 1) / 3, 'classes': (3 / 4 + 1 + 1) / 3}
    for oracle, pq in expected.items():
        summary = json.loads(run(capsys, *files, '--oracle', oracle, '--json')[1])
        assert (summary['oracle'], summary['pq']) == (oracle, pytest.approx(pq))


def test_words_side_by_side(segmenter, files, capsys, tmp_path):
    synonyms = tmp_path / 'synonyms.yaml'
    synonyms.write_text(
        'cat: {training: [cat], held_out: [dog]}\n'
        'dog: {training: [puppy], held_out: [cat]}\n'
        'grass: {training: [grass], held_out: [unknown]}\n'
    )
    arguments = [*files, '--words', 'all', '--synonyms', synonyms]
    summary = json.loads(run(capsys, *arguments, '--json')[1])
    assert segmenter.backend.proposed_images == 3
    by_words = summary['by_words']
    assert list(by_words) == ['names', 'training', 'held_out']
    assert summary['pq'] == by_words['names']['pq'] == by_words['training']['pq']
    # Cat and dog have changed their words, and nothing is called grass.
    assert by_words['held_out']['pq'] == pytest.approx((0 + 1 / 1.5 + 0) / 3)
    ratio = by_words['held_out']['relative_to_names']['pq']
    assert ratio == pytest.approx((1 / 1.5) / (1 / 2 + 1))
    assert by_words['training']['relative_to_names']['miou'] == 1
    text = run(capsys, *arguments)[1]
    assert f'1.000       1.000{ratio:12.3f}' in text


def test_a_vocabulary_of_its_own_order_and_kinds(segmenter, files, capsys):
    code, out, _ = run(capsys, *files, '--vocabulary', 'GRASS, lawn; puppy, dog; cat', '--json')
    assert code == 0
    assert json.loads(out)['pq'] == pytest.approx((1 / 2 + 0 + 1) / 3)
    # By first names alone the dog is a puppy, a word unknown to the model; the same result, as it sees no dog.
    first = json.loads(run(capsys, *files, '--vocabulary', 'lawn, grass; dog; cat', '--words', 'names', '--json')[1])
    assert first['per_class']['grass-merged']['pq'] == 0
    assert first['per_class']['cat']['pq'] == pytest.approx(1 / 2)


def test_unmapped_categories(segmenter, files, capsys):
    code, out, err = run(capsys, *files, '--vocabulary', 'cat; dog', '--json')
    assert (code, out) == (2, '')
    assert err == 'error: 1 of 3 categories are in no class of the vocabulary: grass-merged\n'
    summary = json.loads(run(capsys, *files, '--vocabulary', 'cat; dog', '--ignore-unmapped', '--json')[1])
    assert list(summary['per_class']) == ['cat', 'dog']
    assert summary['pq'] == pytest.approx(1 / 4)


def test_base_and_novel(segmenter, files, capsys, tmp_path):
    split = tmp_path / 'split.yaml'
    split.write_text('base: [cat, grass]\nnovel: [dog]\n')
    summary = json.loads(run(capsys, *files, '--split-file', split, '--json')[1])
    assert (summary['mask_accuracy_base'], summary['mask_accuracy_novel']) == (1, 0)
    assert summary['pq_base'] == pytest.approx(3 / 4)
    assert summary['miou_novel'] == 0


def test_thresholds_can_be_given(segmenter, files, capsys):
    numbers = {'--score-threshold': 1.0, '--mask-threshold': 0.4, '--overlap-threshold': 0.3, '--objectness-trust': 0.0}
    arguments = [entry for pair in numbers.items() for entry in pair]
    summary = json.loads(run(capsys, *files, *arguments, '--json')[1])
    assert summary['thresholds'] == {'score': 1.0, 'mask': 0.4, 'overlap': 0.3, 'objectness_trust': 0.0}
    assert summary['pq'] == 0


def test_plots(segmenter, files, capsys, tmp_path):
    folder = tmp_path / 'new' / 'plots'
    assert run(capsys, *files, '--plots', folder, '--json')[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ['classes_vocabulary.png', 'confusion_vocabulary.png']
    assert all(cv2.imread(str(path)) is not None for path in folder.iterdir())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--images', 'none'], '3 of 3 files missing: none'),
        (['--panoptic', 'none.json'], 'none.json cannot be read'),
        (['--score-threshold', '1.5'], 'threshold score must be in [0, 1], got 1.5'),
        (['--limit', '0'], '--limit must be at least 1, got 0'),
        (['--vocabulary', 'none.yaml'], 'none.yaml does not exist'),
        (['--words', 'held_out', '--synonyms', 'none.yaml'], 'synonyms none.yaml cannot be read'),
        (['--merge-size', '0'], '--merge-size must be in 1..2048, got 0'),
        (['--merge-size', '2049'], '--merge-size must be in 1..2048, got 2049'),
        (['--merge-size', '80', '--backend', 'crops'], "--merge-size needs --backend torch, got 'crops'"),
        (['--split-file', 'none.yaml'], 'split file none.yaml cannot be read'),
    ],
)
def test_what_cannot_be_done(segmenter, files, capsys, arguments, message):
    code, out, err = run(capsys, *files, *arguments, '--json')
    assert (code, out) == (2, '')
    assert err.splitlines()[-1].startswith('error: ')
    assert message in err


def test_a_model_that_cannot_be_loaded(files, capsys, monkeypatch):
    def fail(manifest, backend, device, precision):
        raise BackendUnavailableError('pip install torch')

    monkeypatch.setattr(evaluate, 'open_segmenter', fail)
    assert run(capsys, *files) == (2, '', 'error: pip install torch\n')


@pytest.mark.parametrize('backend', ['crops', 'onnxruntime'])
def test_what_the_benchmark_measures_can_be_scored(files, capsys, monkeypatch, scripted_segmenter, backend):
    segmenter = scripted_segmenter(('cat', 'dog', 'grass'), SEEN, MASKS)
    asked = []
    monkeypatch.setattr(
        evaluate, 'open_segmenter', lambda *given, **named: asked.append((given[1:], named)) or segmenter
    )
    assert run(capsys, *files, '--backend', backend, '--precision', 'fp32', '--json')[0] == 0
    assert asked == [((backend, 'auto'), {'precision': 'fp32'})]


def test_the_shipped_model_on_rendered_rooms(write_panoptic, capsys, monkeypatch):
    categories = [(entry.id, entry.name, entry.is_thing) for entry in CATEGORIES]
    frames = []
    for seed in (990001, 990002, 990003):
        camera = SceneCamera(seed, (320, 240))
        camera.step(2.0)
        instance_map, segments = camera.truth()
        frames.append((camera.color(), instance_map, {segment.id: segment.class_id for segment in segments}))
        camera.close()
    images, path = write_panoptic(categories, frames)
    files = ['--images', images, '--panoptic', path, '--device', 'cpu', '--json']
    code, out, _ = run(capsys, *files, '--model', 'fisa-tiny', '--backend', 'torch')
    assert code == 0
    summary = json.loads(out)
    assert summary['images'] == 3
    assert summary['pixel_accuracy'] > 0.5
    assert summary['mask_accuracy'] > 0.4
    assert summary['pq'] > 0.15
    assert 0 <= summary['ap'] <= summary['ap50'] <= 1
    assert summary['pq'] < summary['pq_class_agnostic']
    assert summary['ece_masks'] < 0.5
    oracles = {oracle: json.loads(run(capsys, *files, '--oracle', oracle)[1])['pq'] for oracle in ('masks', 'classes')}
    assert min(oracles.values()) > summary['pq']
    opened = []
    real = evaluate.open_segmenter
    monkeypatch.setattr(
        evaluate, 'open_segmenter', lambda *given, **named: opened.append(given[0]) or real(*given, **named)
    )
    # Edges of true masks, which have the resolution of the network's input, get lost in a smaller map.
    merged = [json.loads(run(capsys, *files, '--oracle', 'masks', '--merge-size', size)[1]) for size in (40, 160, 320)]
    assert [numbers['merge_size'] for numbers in merged] == [40, 160, 320]
    assert merged[0]['sq'] < merged[1]['sq'] < merged[2]['sq']
    assert merged[1]['pq'] == oracles['masks']
    # The exported graphs, with which half precision is compared, are those of the model as it is.
    assert {graphs_folder(manifest) for manifest in opened} == {graphs_folder(load_manifest('fisa-tiny'))}

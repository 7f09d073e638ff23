from contextlib import redirect_stdout
import io
import json
import os
import signal

import cv2
import numpy as np
import pytest

from fisa_ros.tools import evaluate
from fisa_ros.tools.evaluate import main
from fisa_ros.tools.evaluation_tables import print_named_datasets

# Relative, for `test` is also a package of Python's own.
from ..datasets import published  # noqa: TID252


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Miniatures of data sets, laid out as the originals are."""
    folder = tmp_path_factory.mktemp('root')
    published.ade_panoptic(folder, hidden=True)
    published.ade_semantic(folder)
    published.ade_full(folder)
    published.cityscapes_instances(folder / 'cityscapes')
    published.coco(folder / 'elsewhere')
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def segmenter(monkeypatch, scripted_segmenter):
    """A model that sees a road in the left half and a car in the right one."""
    seen = [[0, 0, 1, 1]] * 4
    segmenter = scripted_segmenter(('road', 'car'), seen, [[[1, 1, 0, 0]] * 4, [[0, 0, 1, 1]] * 4])
    monkeypatch.setattr(evaluate, 'open_segmenter', lambda manifest, backend, device, precision: segmenter)
    return segmenter


@pytest.fixture(scope='module')
def summary(root, tmp_path_factory):
    """Three data sets, scored with the shipped model."""
    folder = tmp_path_factory.mktemp('plots')
    names = ('ade20k-150', 'ade20k-847', 'cityscapes')
    options = [text for name in names for text in ('--dataset', name)]
    options += ['--root', str(root), '--limit', '2', '--device', 'cpu', '--plots', str(folder), '--json']
    with redirect_stdout(io.StringIO()) as printed:
        assert main(options) == 0
    return json.loads(printed.getvalue()) | {'folder': folder}


def test_metrics_by_data_set(summary):
    assert (summary['model'], summary['is_interrupted']) == ('fisa-tiny', False)
    datasets = summary['datasets']
    assert list(datasets) == ['ade20k-150', 'ade20k-847', 'cityscapes']
    for name, of_images in (('ade20k-150', 2000), ('ade20k-847', 2000), ('cityscapes', 500)):
        numbers = datasets[name]
        assert (numbers['images'], numbers['of_images'], numbers['split']) == (2, of_images, 'val')
        assert not numbers['is_comparable']
        for key in ('miou', 'pixel_accuracy', 'miou_semantic', 'pixel_accuracy_semantic', 'mask_accuracy'):
            assert 0 <= numbers[key] <= 1
    assert len(datasets['ade20k-847']['per_class']) == 847
    assert not datasets['ade20k-847']['has_instances']
    assert [name for name, numbers in datasets.items() if numbers['may_hide_segments']] == ['ade20k-150']
    assert datasets['ade20k-847']['pq'] is datasets['ade20k-847']['ap_instances'] is None
    assert datasets['ade20k-847']['path'].endswith('annotations_detectron2/validation')
    for name in ('ade20k-150', 'cityscapes'):
        for key in ('pq', 'sq', 'rq', 'pq_things', 'pq_stuff', 'ap', 'ap_instances'):
            assert 0 <= datasets[name][key] <= 1


def test_published_rows_lie_beside(summary):
    rows = {row['method']: row for row in summary['published']['cityscapes']}
    assert rows['FC-CLIP L']['pq'] == pytest.approx(0.44)
    assert rows['OVRCOAT']['miou'] is None
    assert rows['OVRCOAT']['source'].startswith('https://')


def test_each_data_set_has_its_plots(summary):
    folders = sorted(path.name for path in summary['folder'].iterdir())
    assert folders == ['ade20k-150', 'ade20k-847', 'cityscapes']
    for folder in summary['folder'].iterdir():
        pictures = sorted(path.name for path in folder.iterdir())
        assert pictures == ['classes_vocabulary.png', 'confusion_vocabulary.png']
        assert all(cv2.imread(str(path)) is not None for path in folder.iterdir())


def test_the_table_converts_and_marks_what_is_in_part(summary, capsys):
    print_named_datasets(summary)
    out = capsys.readouterr().out
    fractions, percent = out.split('Beside published results, in percent')
    lines = {line.split()[0]: line.split()[1:] for line in fractions.splitlines() if line.strip()}
    assert lines['scored'] == ['images', '2', 'of', '2000', '2', 'of', '2000', '2', 'of', '500']
    assert lines['pq'][1] == '-'
    assert lines['miou_semantic'][2] == f'{summary["datasets"]["cityscapes"]["miou_semantic"]:.3f}'
    block = percent[percent.index('cityscapes') :].splitlines()
    assert block[0].split() == ['cityscapes', 'PQ', 'AP', 'mIoU']
    miou = 100 * summary['datasets']['cityscapes']['miou_semantic']
    assert block[1].startswith('  fisa-tiny, measured here, 2 of 500 images ')
    assert block[1].split()[-1] == f'({miou:.1f})'
    assert block[2].split() == ['FC-CLIP', 'L', '44.0', '26.8', '56.2']
    assert 'In brackets: not measured on all images' in percent
    assert 'see --semantic' in percent
    assert "PQ is that of the node's output" in percent
    assert 'FC-CLIP L: https://github.com/bytedance/fc-clip' in percent


def test_a_whole_data_set_is_not_in_brackets(summary, capsys):
    numbers = summary['datasets']['cityscapes'] | {'images': 500, 'is_comparable': True, 'pq': 0.4561}
    print_named_datasets(summary | {'datasets': {'cityscapes': numbers}})
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if 'measured here' in line)
    assert line.startswith('  fisa-tiny, measured here, all 500 images ')
    assert line.split()[6] == '45.6'
    assert 'brackets' not in out


def test_what_is_published_for_another_truth_is_told(summary, capsys):
    numbers = summary['datasets']['ade20k-150'] | {'images': 2000, 'is_comparable': True}
    numbers |= {'pq': 0.25, 'ap_instances': 0.125, 'miou_semantic': 0.5}
    print_named_datasets(summary | {'datasets': {'ade20k-150': numbers}})
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if 'measured here' in line)
    assert line.split()[-3:] == ['25.0', '12.5', '(50.0)']
    assert 'mIoU, in brackets, is published for its maps of classes' in out
    rows = summary['published'] | {'coco-panoptic': []}
    plain = numbers | {'may_hide_segments': False}
    print_named_datasets(summary | {'datasets': {'coco-panoptic': plain}, 'published': rows})
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if 'measured here' in line)
    assert line.split()[-3:] == ['25.0', '12.5', '50.0']
    assert 'AP is published for instances_val2017.json, measured here on the panoptic maps' in out
    classes = plain | {'has_instances': False, 'pq': None, 'ap_instances': None}
    print_named_datasets(summary | {'datasets': {'ade20k-150': classes}})
    out = capsys.readouterr().out
    assert 'brackets' not in out
    assert "node's output" not in out


def test_metrics_by_hand(segmenter, root, capsys):
    arguments = ['--dataset', 'cityscapes', '--root', root, '--vocabulary', 'road; car; sky', '--ignore-unmapped']
    numbers = json.loads(run(capsys, *arguments, '--json')[1])['datasets']['cityscapes']
    # Stripes: void, road, a group of cars, two cars, void. The other image: void, sky.
    assert list(numbers['per_class']) == ['road', 'sky', 'car']
    assert not numbers['is_comparable']
    road, sky, car = numbers['per_class'].values()
    # Void is taken out of the union; the group stays in it, for it is not the road's.
    assert road['pq'] == 0
    assert road['iou'] == pytest.approx(10 / 20)
    assert sky['pq'] == 0
    # One segment over two cars and void lies on neither.
    assert car['pq'] == 0
    assert car['iou'] == pytest.approx(20 / 60)
    assert numbers['pixel_accuracy'] == pytest.approx(30 / 70)


def test_classes_alone(segmenter, root, capsys):
    arguments = ['--dataset', 'ade20k-150', '--dataset', 'cityscapes', '--root', root, '--semantic', '--json']
    datasets = json.loads(run(capsys, *arguments)[1])['datasets']
    numbers = datasets['ade20k-150']
    assert not numbers['has_instances']
    assert not numbers['may_hide_segments']
    assert (numbers['pq'], numbers['ap']) == (None, None)
    # It comes with instances only.
    assert datasets['cityscapes']['pq'] is not None
    out = run(capsys, *arguments[:-1])[1]
    assert 'see --semantic' not in out


def test_each_data_set_may_have_its_own_root(segmenter, root, capsys):
    arguments = ['--dataset', 'coco-panoptic', '--root', f'coco-panoptic={root}/elsewhere', '--dataset', 'ade20k-847']
    summary = json.loads(run(capsys, *arguments, '--root', root, '--limit', 1, '--json')[1])
    assert [numbers['images'] for numbers in summary['datasets'].values()] == [1, 1]
    assert 'panoptic_val2017' in summary['datasets']['coco-panoptic']['path']


def test_words_and_oracles_are_named(segmenter, root, capsys):
    arguments = ['--dataset', 'cityscapes', '--root', root, '--oracle', 'masks']
    assert 'scripted, measured here, 2 of 500 images, oracle masks' in run(capsys, *arguments)[1]
    out = run(capsys, *arguments[:-2], '--words', 'names')[1]
    assert 'scripted, measured here, 2 of 500 images, words: names ' in out


def test_a_back_end_that_merges_by_itself_has_no_published_metrics(segmenter, root, capsys, monkeypatch):
    monkeypatch.setattr(segmenter.backend, 'precision', 'fp16')
    out = run(capsys, '--dataset', 'cityscapes', '--root', root)[1]
    line = next(line for line in out.splitlines() if 'measured here' in line)
    assert line.split()[-3:] == ['(0.0)', '-', '-']
    assert 'They need --backend torch --precision fp32' in out


def test_a_signal_ends_it_with_what_it_has(segmenter, root, capsys, monkeypatch):
    propose = segmenter.backend.propose_masks
    monkeypatch.setattr(
        segmenter.backend, 'propose_masks', lambda image: os.kill(os.getpid(), signal.SIGINT) or propose(image)
    )
    arguments = ['--dataset', 'cityscapes', '--dataset', 'ade20k-847', '--root', root]
    code, out, _ = run(capsys, *arguments)
    assert code == 130
    assert 'measured here, 1 of 500 images' in out
    assert out.rstrip().endswith('Interrupted: these are the images up to then.')
    code, out, _ = run(capsys, *arguments, '--json')
    summary = json.loads(out)
    assert (code, summary['is_interrupted'], list(summary['datasets'])) == (130, True, ['cityscapes'])
    assert segmenter.backend.is_closed


def test_a_signal_while_words_are_encoded_keeps_what_there_is(segmenter, root, capsys, monkeypatch):
    prepare, prepared = segmenter.prepare, []

    def interrupted(vocabulary):
        prepared.append(vocabulary)
        if len(prepared) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return prepare(vocabulary)

    monkeypatch.setattr(segmenter, 'prepare', interrupted)
    arguments = [text for name in ('cityscapes', 'ade20k-847', 'ade20k-150') for text in ('--dataset', name)]
    code, out, _ = run(capsys, *arguments, '--root', root, '--json')
    summary = json.loads(out)
    assert (code, summary['is_interrupted'], summary['error']) == (130, True, None)
    assert {name: numbers['images'] for name, numbers in summary['datasets'].items()} == {
        'cityscapes': 2, 'ade20k-847': 0,
    }  # fmt: skip
    assert summary['datasets']['cityscapes']['miou'] > 0
    assert summary['datasets']['ade20k-847']['miou'] is None
    # At once, before any image.
    prepared[:] = [None]
    code, out, _ = run(capsys, *arguments, '--root', root)
    assert code == 130
    assert 'measured here, 0 of 500 images' in out


def test_a_signal_while_plots_are_drawn_keeps_what_there_is(segmenter, root, capsys, monkeypatch, tmp_path):
    plot = evaluate._plot
    monkeypatch.setattr(evaluate, '_plot', lambda *given: os.kill(os.getpid(), signal.SIGINT) or plot(*given))
    arguments = ['--dataset', 'cityscapes', '--dataset', 'ade20k-847', '--root', root, '--plots', tmp_path]
    code, out, _ = run(capsys, *arguments, '--json')
    summary = json.loads(out)
    assert (code, list(summary['datasets'])) == (130, ['cityscapes'])
    assert len(list((tmp_path / 'cityscapes').iterdir())) == 2


@pytest.fixture
def broken_root(tmp_path):
    """Two data sets; in the second a map is cut off."""
    published.cityscapes_instances(tmp_path / 'cityscapes')
    published.ade_full(tmp_path)
    path = max((tmp_path / 'ADE20K_2021_17_01/annotations_detectron2/validation').iterdir())
    path.write_bytes(path.read_bytes()[:50])
    return tmp_path


def test_an_error_in_a_later_data_set_keeps_the_earlier_ones(segmenter, broken_root, capsys, caplog):
    arguments = ['--dataset', 'cityscapes', '--dataset', 'ade20k-847', '--root', broken_root]
    code, out, _ = run(capsys, *arguments, '--json')
    summary = json.loads(out)
    assert (code, list(summary['datasets']), summary['is_interrupted']) == (2, ['cityscapes'], False)
    assert summary['error'].startswith(f'ade20k-847: {broken_root}/ADE20K_2021_17_01/')
    assert 'ADE_val_00000002.tif' in caplog.text
    code, out, _ = run(capsys, *arguments)
    assert code == 2
    assert 'measured here, 2 of 500 images' in out
    assert 'Ended by an error, these are the numbers up to then: ade20k-847: ' in out
    # As the first one it leaves nothing to print.
    code, out, err = run(capsys, '--dataset', 'ade20k-847', '--dataset', 'cityscapes', '--root', broken_root)
    assert (code, out) == (2, '')
    assert 'error: ' in err


def test_numbers_outlive_plots_that_cannot_be_written(segmenter, root, capsys, tmp_path):
    folder = tmp_path / 'cityscapes' / 'classes_vocabulary.png'
    folder.mkdir(parents=True)
    code, out, _ = run(capsys, '--dataset', 'cityscapes', '--root', root, '--plots', tmp_path, '--json')
    summary = json.loads(out)
    assert code == 2
    assert summary['datasets']['cityscapes']['images'] == 2
    assert 'classes_vocabulary.png' in summary['error']


def test_vocabularies_that_are_too_large_are_refused_before_the_first_image(segmenter, root, capsys, monkeypatch):
    monkeypatch.setattr(segmenter.backend, 'max_classes', 512, raising=False)
    code, out, err = run(capsys, '--dataset', 'cityscapes', '--dataset', 'ade20k-847', '--root', root)
    assert (code, out) == (2, '')
    assert 'the vocabulary has 847 classes, the back-end takes at most 512' in err
    assert segmenter.backend.proposed_images == 0


def test_a_large_image_is_scored_at_the_size_of_its_truth(segmenter, tmp_path, capsys):
    image, ids = np.zeros((1024, 2048, 3), np.uint8), np.full((1024, 2048), 7, np.uint16)
    ids[:, 1024:] = 26000
    ids[:, :3] = 26001
    stem = 'ulm_000000_000000'
    for folder, name, pixels in (
        ('leftImg8bit', 'leftImg8bit', image), ('gtFine', 'gtFine_instanceIds', ids),
    ):  # fmt: skip
        path = tmp_path / folder / 'val' / 'ulm' / f'{stem}_{name}.png'
        path.parent.mkdir(parents=True)
        assert cv2.imwrite(str(path), pixels)
    arguments = ['--dataset', 'cityscapes', '--root', tmp_path, '--vocabulary', 'road; car', '--ignore-unmapped']
    numbers = json.loads(run(capsys, *arguments, '--json')[1])['datasets']['cityscapes']
    # Three columns of 2048 are wrong, which a map of the size of the network would not show.
    assert numbers['pixel_accuracy'] == numbers['pixel_accuracy_semantic'] == 1 - 3 / 2048
    assert numbers['per_class']['road']['pq'] == pytest.approx(1021 / 1024)
    assert numbers['per_class']['car']['pq'] == pytest.approx(1 / 1.5)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'give --dataset and --root, or --images and --panoptic'),
        (['--images', 'none'], 'give --dataset and --root, or --images and --panoptic'),
        (['--root', 'none'], '--root needs --dataset'),
        (['--split', 'val', '--images', 'a', '--panoptic', 'b'], '--split needs --dataset'),
        (['--dataset', 'cityscapes', '--images', 'none'], '--images cannot be given with --dataset'),
        (['--dataset', 'cityscapes'], '--root is missing for cityscapes: give --root DIR or --root cityscapes=DIR'),
        (
            ['--dataset', 'cityscapes', '--root', 'ade20k-150=x'],
            '--root ade20k-150=x: there is no --dataset ade20k-150',
        ),
        (['--dataset', 'cityscapes', '--root', 'a', '--root', 'b'], '--root is given twice: a and b'),
        (['--dataset', 'cityscapes', '--dataset', 'cityscapes'], '--dataset is given twice: cityscapes'),
        (['--dataset', 'cityscapes', '--root', 'none'], 'none has no data set cityscapes, split val'),
    ],
)
def test_what_cannot_be_done(segmenter, capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, '')
    assert err.startswith(f'error: {message}') or message in err


def test_a_data_set_that_is_not_known(capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['--dataset', 'imagenet', '--root', '.'])
    assert 'ade20k-847' in capsys.readouterr().err

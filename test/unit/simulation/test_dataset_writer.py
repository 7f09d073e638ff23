import json
import multiprocessing
import os
from pathlib import Path
import shutil
import time

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.captions import read_captions
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.simulation import dataset_writer
from fisa_ros.simulation.categories import CATEGORIES
from fisa_ros.simulation.dataset_writer import SimulationSettings, write_dataset

SETTINGS = SimulationSettings('validation', (96, 72), images_per_room=3, with_depth=True)
SEQUENCES = SimulationSettings('test', (64, 48), images_per_room=5, rate_hz=4.0)
IMAGES = 8


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def children(pid):
    return [child for task in Path(f'/proc/{pid}/task').iterdir() for child in (task / 'children').read_text().split()]


def is_running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp('rooms')
    assert write_dataset(root, SETTINGS, IMAGES, processes=2) == IMAGES
    return root


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'copy')


@pytest.fixture
def no_rendering(monkeypatch):
    def fail(*_):
        raise AssertionError('rendered again')

    monkeypatch.setattr(dataset_writer, 'ProcessPoolExecutor', fail)


@pytest.fixture
def in_process(monkeypatch):
    """Render in this process: starting others is most of the time of a small set."""

    class Pool:
        def __init__(self, *_, **__):
            self.map = map

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(dataset_writer, 'ProcessPoolExecutor', Pool)


def test_the_reader_reads_what_was_written(finished):
    dataset = PanopticDataset.open(finished / 'validation', finished / 'annotations/panoptic_validation.json')
    assert len(dataset) == IMAGES
    assert [(c.id, c.name, c.is_thing) for c in dataset.categories.values()] == [
        (c.id, c.name, c.is_thing) for c in CATEGORIES
    ]
    document = json.loads(dataset.path.read_text())
    assert document['info']['split'] == 'validation'
    assert document['info']['seeds'] == [2_000_000, 2_000_002]
    assert [image['id'] for image in document['images']] == list(range(1, IMAGES + 1))
    for index, (record, annotation) in enumerate(zip(dataset.records, document['annotations'], strict=True)):
        image, panoptic_map = dataset.image(index), dataset.panoptic_map(index)
        assert image.shape == (72, 96, 3)
        assert image.std() > 5
        assert record.image_path.stem == record.map_path.stem
        for entry in annotation['segments_info']:
            rows, columns = np.nonzero(panoptic_map == entry['id'])
            assert entry['area'] == len(rows)
            x, y, width, height = entry['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert entry['iscrowd'] == 0


def test_colours_are_where_the_truth_is(finished):
    """A swap of red and blue, or another image's truth, would show."""
    dataset = PanopticDataset.open(finished / 'validation', finished / 'annotations/panoptic_validation.json')
    rendered = list(SETTINGS.frames(0, range(3)))
    for index, frame in enumerate(rendered):
        assert np.array_equal(dataset.panoptic_map(index), frame.instance_map)
        assert np.abs(dataset.image(index).astype(int) - frame.color).mean() < 6
        assert np.abs(dataset.image(index)[..., ::-1].astype(int) - frame.color).mean() > 6


def test_depth_is_in_millimetres(finished):
    (frame,) = SETTINGS.frames(1, [1])
    depth = cv2.imread(str(finished / 'depth_validation/00000004.png'), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert np.abs(depth / 1000 - frame.depth).max() < 0.0006


def test_every_image_and_every_segment_has_captions(finished):
    path = finished / 'annotations/captions_validation.json'
    document = json.loads(path.read_text())
    assert [entry['id'] for entry in document['annotations']] == list(range(1, len(document['annotations']) + 1))
    panoptic = json.loads((finished / 'annotations/panoptic_validation.json').read_text())
    assert document['images'] == panoptic['images']
    read = read_captions(path)
    for annotation in panoptic['annotations']:
        captions = [entry for entry in document['annotations'] if entry['image_id'] == annotation['image_id']]
        assert sum('segment_id' not in entry and 'bbox' not in entry for entry in captions) == 2
        described = [(entry['segment_id'], entry['bbox']) for entry in captions if 'segment_id' in entry]
        assert described == [(segment['id'], segment['bbox']) for segment in annotation['segments_info']]
        assert len(read[annotation['image_id']]) == len(captions)


def test_a_set_does_not_depend_on_processes_and_grows(finished, tmp_path, in_process):
    assert write_dataset(tmp_path, SETTINGS, 4, processes=1) == 4
    assert len(json.loads((tmp_path / 'annotations/panoptic_validation.json').read_text())['images']) == 4
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.*g')}
    assert write_dataset(tmp_path, SETTINGS, IMAGES, processes=1) == 4
    assert tree(tmp_path) == tree(finished)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_finished_set_is_not_rendered_again(copy, finished, no_rendering):
    assert write_dataset(copy, SETTINGS, IMAGES) == 0
    assert tree(copy) == tree(finished)


def test_a_killed_run_goes_on_to_the_same_set(finished, tmp_path):
    journal = tmp_path / 'annotations/simulation_validation.jsonl'
    run = multiprocessing.get_context('spawn').Process(target=write_dataset, args=(tmp_path, SETTINGS, 4000))
    run.start()
    while not journal.exists() or journal.read_bytes().count(b'\n') < 2:
        assert run.is_alive()
        time.sleep(0.01)
    renderers = children(run.pid)
    assert renderers
    run.kill()
    run.join()
    while any(map(is_running, renderers)):
        time.sleep(0.01)
    assert not list(tmp_path.rglob('*.json'))
    # The set goes on as one of a few images.
    known = journal.read_bytes().splitlines(keepends=True)[: IMAGES - 2]
    journal.write_bytes(b''.join(known))
    (tmp_path / 'validation' / f'00000000.jpg.{os.getpid()}.unfinished').write_bytes(b'half')
    stamps = {}
    for line in known[1:]:
        path = tmp_path / 'validation' / json.loads(line)['image']['file_name']
        stamps[path] = path.stat().st_mtime_ns
    assert write_dataset(tmp_path, SETTINGS, IMAGES, processes=1) == IMAGES - len(stamps)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    after, whole = tree(tmp_path), tree(finished)
    assert {name: after[name] for name in whole} == whole
    assert not [name for name in after if name.endswith('.unfinished')]


@pytest.mark.parametrize('kind', ['validation/00000002.jpg', 'annotations/panoptic_validation/00000005.png'])
def test_a_lost_file_is_rendered_again(copy, finished, kind, in_process):
    (copy / kind).unlink()
    assert write_dataset(copy, SETTINGS, IMAGES) == 1
    assert tree(copy) == tree(finished)


def test_sequences(tmp_path, in_process):
    assert write_dataset(tmp_path, SEQUENCES, 10) == 10
    document = json.loads((tmp_path / 'annotations/panoptic_test.json').read_text())
    assert document['videos'] == [
        {'id': number, 'name': f'seq_000{number}', 'width': 64, 'height': 48, 'fps': 4.0} for number in (1, 2)
    ]
    assert [(image['video_id'], image['frame_id']) for image in document['images']] == [
        (video, frame) for video in (1, 2) for frame in range(5)
    ]
    assert document['images'][6]['file_name'] == 'seq_0002_000001.jpg'
    dataset = PanopticDataset.open(tmp_path / 'test', tmp_path / 'annotations/panoptic_test.json')
    for index in range(4):
        assert np.mean(dataset.panoptic_map(index) == dataset.panoptic_map(index + 1)) > 0.5
    assert not (tmp_path / 'depth_test').exists()


def test_long_sequences_are_split_among_processes(tmp_path, in_process, monkeypatch):
    write_dataset(tmp_path / 'whole', SEQUENCES, 10)
    monkeypatch.setattr(dataset_writer, '_IMAGES_PER_TASK', 2)
    write_dataset(tmp_path / 'parts', SEQUENCES, 10)
    assert tree(tmp_path / 'whole') == tree(tmp_path / 'parts')


@pytest.mark.parametrize(
    ('change', 'images', 'message'),
    [
        ({'shadow_share': 0.5}, IMAGES, r'begun with shadow_share 0\.25, not 0\.5'),
        ({'rate_hz': 3.0}, IMAGES, 'begun with rate_hz None, not 3.0'),
        ({}, IMAGES - 1, 'holds 8 images of validation already, more than 7'),
        ({}, 0, '1 image or more, got 0'),
        ({}, 3_000_001, '3000001 images need 1000001 rooms; split validation ends before room 3000000'),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(copy, finished, change, images, message):
    values = {name: getattr(SETTINGS, name) for name in SETTINGS.__slots__}
    with pytest.raises(DataError, match=message):
        write_dataset(copy, SimulationSettings(**{**values, **change}), images)
    assert tree(copy) == tree(finished)


def test_another_split_has_room_in_the_same_folder(copy, finished, in_process):
    write_dataset(copy, SimulationSettings('test', (32, 24), 1), 1)
    assert {name: content for name, content in tree(copy).items() if 'test' not in name} == tree(finished)


def test_data_of_others_is_not_touched(tmp_path):
    (tmp_path / 'train').mkdir()
    with pytest.raises(DataError, match=r'without simulation_train\.jsonl'):
        write_dataset(tmp_path, SimulationSettings('train'), 1)
    assert [path.name for path in tmp_path.iterdir()] == ['train']


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='file: the data set cannot be written: '):
        write_dataset(tmp_path / 'file', SETTINGS, 1)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'split': 'val'}, "split must be one of train, validation, test, got 'val'"),
        ({'size_wh': (640, 8)}, r'must be in \[16, 4096\], got 640x8'),
        ({'size_wh': (5000, 480)}, 'got 5000x480'),
        ({'images_per_room': 0}, '1 or more, got 0'),
        ({'rate_hz': 0.0}, r'rate must be in \[0\.1, 1000\] Hz, got 0\.0'),
        ({'shadow_share': 1.5}, r'share of shadows must be in \[0, 1\], got 1\.5'),
        ({'shadow_share': float('nan')}, 'got nan'),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        SimulationSettings(**{'split': 'train', **change})

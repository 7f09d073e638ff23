from dataclasses import replace
import json
import pickle
import re

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import SegmentInfo, encode_ids
from fisa_ros.datasets.registry import DATASETS, open_dataset, vocabulary_of

from . import published
from .published import HEIGHT, WIDTH, blocks


def contents(dataset):
    """Return, by image id, the class of each stripe and the segments."""
    found = {}
    for index, record in enumerate(dataset.records):
        ids = dataset.panoptic_map(index)
        assert ids.dtype == np.int32
        assert ids.shape == dataset.size_hw(index) == (HEIGHT, WIDTH)
        assert dataset.image(index).shape == (HEIGHT, WIDTH, 3)
        assert set(np.unique(ids).tolist()) - {0} <= {segment.id for segment in record.segments}
        segments = {segment.id: segment for segment in record.segments}
        row = ids[0]
        assert (ids == row).all()
        stripes = row[np.flatnonzero(np.diff(row, prepend=-1))].tolist()
        found[record.image_id] = (
            [dataset.categories[segments[key].category_id].name if key else None for key in stripes],
            sorted((entry.category_id, entry.is_crowd) for entry in record.segments),
        )
    return found


@pytest.mark.parametrize('maps', ['annotations/panoptic_val2017', 'panoptic_val2017'])
@pytest.mark.parametrize('folder', ['', 'coco'])
def test_coco(tmp_path, maps, folder):
    published.coco(tmp_path / folder, maps)
    dataset = open_dataset('coco-panoptic', tmp_path, 'val')
    assert dataset.has_instances
    assert dataset.path.name == 'panoptic_val2017.json'
    assert {segment.area for segment in dataset.records[0].segments} == {None}
    assert contents(dataset) == {
        139: (['person', 'sky', 'person'], [(1, False), (1, True), (187, False)]),
        285: ([None, 'brick wall'], [(171, False)]),
    }


def test_the_train_split_of_coco_has_its_own_word(tmp_path):
    published.coco(tmp_path)
    with pytest.raises(DataError, match=r'annotations/panoptic_train2017\.json \(missing\)'):
        open_dataset('coco-panoptic', tmp_path, 'train')


def test_ade20k_with_instances(tmp_path):
    published.ade_panoptic(tmp_path)
    published.ade_semantic(tmp_path)
    dataset = open_dataset('ade20k-150', tmp_path)
    assert dataset.has_instances
    assert contents(dataset) == {
        'ADE_val_00000001': (['wall', 'person', 'person'], [(0, False), (12, False), (12, False)]),
        'ADE_val_00000002': (['window', None], [(8, False)]),
    }


def test_ade20k_lists_stuff_that_things_cover(tmp_path):
    published.ade_panoptic(tmp_path, hidden=True)
    dataset = open_dataset('ade20k-150', tmp_path)
    assert contents(dataset)['ADE_val_00000001'][1] == [(0, False), (2, False), (12, False), (12, False)]
    assert [segment.area for segment in dataset.records[0].segments] == [1600, 800, 800, 800]
    path = dataset.records[0].map_path
    cv2.imwrite(str(path), encode_ids(blocks([1, 2, 9])))
    with pytest.raises(DataError, match=r'only in the PNG: 9$'):
        dataset.panoptic_map(0)


@pytest.mark.parametrize('form', ['both', 'published', 'detectron2'])
def test_ade20k_of_classes(tmp_path, form):
    if form == 'both':
        published.ade_panoptic(tmp_path)
    published.ade_semantic(tmp_path)
    if form == 'detectron2':
        base = tmp_path / 'ADEChallengeData2016'
        for path in (base / 'annotations/validation').iterdir():
            values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            published.write_map(base / 'annotations_detectron2/validation' / path.name, values - 1)
            path.unlink()
    dataset = open_dataset('ade20k-150', tmp_path, semantic=form == 'both')
    assert not dataset.has_instances
    assert contents(dataset) == {
        'ADE_val_00000001': ([None, 'wall', 'flag'], [(0, False), (149, False)]),
        'ADE_val_00000002': (['person'], [(12, False)]),
    }


@pytest.mark.parametrize('suffix', ['.tif', '.png'])
def test_ade20k_full(tmp_path, suffix):
    published.ade_full(tmp_path, suffix)
    dataset = open_dataset('ade20k-847', tmp_path)
    assert not dataset.has_instances
    assert len(dataset.categories) == 847
    assert contents(dataset) == {
        'ADE_val_00000001': ([None, 'wall', 'adding machine'], [(0, False), (846, False)]),
        'ADE_val_00000002': (['altar', 'fish'], [(300, False), (301, False)]),
    }


@pytest.mark.parametrize('write', [published.cityscapes_panoptic, published.cityscapes_instances])
@pytest.mark.parametrize('folder', ['', 'cityscapes'])
def test_cityscapes(tmp_path, write, folder):
    write(tmp_path / folder)
    dataset = open_dataset('cityscapes', tmp_path)
    assert dataset.has_instances
    assert len(dataset.categories) == 19
    found = contents(dataset)
    assert found[published.CITY] == (
        [None, 'road', 'car', 'car', 'car', None], [(7, False), (26, False), (26, False), (26, True)],
    )  # fmt: skip
    assert found[published.OTHER_CITY][1] == [(23, False)]


def test_both_forms_of_cityscapes_have_the_same_truth(tmp_path):
    published.cityscapes_instances(tmp_path)
    plain = open_dataset('cityscapes', tmp_path)
    published.cityscapes_panoptic(tmp_path)
    prepared = open_dataset('cityscapes', tmp_path)
    assert prepared.path.suffix == '.json'
    assert np.array_equal(plain.panoptic_map(0), prepared.panoptic_map(0))
    assert plain.records[0].segments == prepared.records[0].segments


@pytest.mark.parametrize('maps', ['validation/v1.2/panoptic', 'validation/panoptic'])
def test_mapillary_vistas(tmp_path, maps):
    published.vistas(tmp_path, maps)
    dataset = open_dataset('mapillary-vistas', tmp_path)
    assert dataset.has_instances
    assert len(dataset.categories) == 65
    found = contents(dataset)
    assert found['a-_B'] == (['road', 'bird', 'lane marking'], [(1, False), (14, False), (25, False)])
    assert found['cd'][1] == [(65, False)]


def test_the_size_of_mapillary_vistas_is_that_of_the_map(tmp_path):
    document = published.vistas(tmp_path)
    assert (document['images'][0]['height'], document['images'][0]['width']) == (WIDTH, HEIGHT)
    dataset = open_dataset('mapillary-vistas', tmp_path)
    published.write_image(dataset.records[0].image_path, (WIDTH, HEIGHT))
    with pytest.raises(DataError, match=r'a-_B\.jpg is 40x60, .*a-_B\.png says 60x40'):
        dataset.image(0)
    published.write_map(dataset.records[1].map_path, encode_ids(blocks([7])[:, 1:]))
    with pytest.raises(DataError, match=r'cd\.png is 59x40, .*panoptic_2018\.json says 40x60'):
        dataset.panoptic_map(1)


def test_the_size_of_others_cannot_be_swapped(tmp_path):
    document = published.coco(tmp_path)
    document['images'][0] |= {'height': WIDTH, 'width': HEIGHT}
    (tmp_path / 'annotations/panoptic_val2017.json').write_text(json.dumps(document))
    dataset = open_dataset('coco-panoptic', tmp_path)
    for read in (dataset.image, dataset.panoptic_map):
        with pytest.raises(DataError, match=r'is 60x40, .*panoptic_val2017\.json says 40x60'):
            read(0)


@pytest.mark.parametrize('name', ['pascal-context-59', 'pascal-context-459'])
@pytest.mark.parametrize('layout', ['fc-clip', 'san', 'voc'])
def test_pascal_context(tmp_path, name, layout):
    published.pascal(tmp_path, name, layout)
    dataset = open_dataset(name, tmp_path)
    count = int(name[15:])
    assert not dataset.has_instances
    assert len(dataset.categories) == count
    found = contents(dataset)
    assert list(found) == ['2008_000002', '2008_000003']
    assert found['2008_000002'][1] == [(0, False), (count - 1, False)]
    assert found['2008_000002'][0][0] is None


def test_a_map_is_read_when_it_is_asked_for(tmp_path):
    published.ade_semantic(tmp_path)
    path = tmp_path / 'ADEChallengeData2016/annotations/validation/ADE_val_00000002.png'
    path.write_bytes(path.read_bytes()[:50])
    dataset = open_dataset('ade20k-150', tmp_path)
    assert dataset.records[0].segments == (SegmentInfo(1, 0, False), SegmentInfo(150, 149, False))
    assert dataset.records[-2].image_id == 'ADE_val_00000001'
    assert len(dataset.records[1:]) == 1
    with pytest.raises(DataError, match='is cut off'):
        _ = dataset.records[1].segments
    with pytest.raises(IndexError):
        _ = dataset.records[2]


@pytest.mark.parametrize(
    ('write', 'name'), [(published.cityscapes_instances, 'cityscapes'), (published.ade_semantic, 'ade20k-150')]
)
def test_ids_of_images_are_known_without_their_maps(tmp_path, write, name):
    write(tmp_path)
    dataset = open_dataset(name, tmp_path)
    expected = [record.image_id for record in dataset.records]
    dataset = open_dataset(name, tmp_path)
    for record in open_dataset(name, tmp_path).records:
        record.map_path.unlink()
    assert dataset.image_ids == expected
    assert replace(dataset, records=dataset.records[1:]).image_ids == expected[1:]


def test_ids_of_images_of_a_json(tmp_path):
    published.coco(tmp_path)
    assert open_dataset('coco-panoptic', tmp_path).image_ids == [139, 285]


def test_a_map_is_decoded_once_for_the_record_and_its_ids(tmp_path):
    published.cityscapes_instances(tmp_path)
    dataset = open_dataset('cityscapes', tmp_path)
    dataset.image(0)
    path = dataset.records[0].map_path
    content = path.read_bytes()
    path.write_bytes(b'')
    first = dataset.panoptic_map(0)
    with pytest.raises(DataError, match='is not an image'):
        dataset.panoptic_map(0)
    path.write_bytes(content)
    assert np.array_equal(dataset.panoptic_map(0), first)
    # Another map takes the place of the kept one.
    dataset = open_dataset('cityscapes', tmp_path)
    segments = [record.segments for record in dataset.records]
    assert np.array_equal(dataset.panoptic_map(0), first)
    assert {segment.id for segment in segments[0]} == set(np.unique(first).tolist()) - {0}


def test_data_sets_can_be_sent_to_other_processes(tmp_path):
    published.cityscapes_instances(tmp_path)
    dataset = pickle.loads(pickle.dumps(open_dataset('cityscapes', tmp_path)))
    assert len(dataset.records[0].segments) == 4


@pytest.mark.parametrize('name', DATASETS)
def test_a_folder_without_the_data_set(tmp_path, name):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'notes.txt').write_text('')
    with pytest.raises(DataError, match=f'{tmp_path} has no data set {name}, split val. Expected ') as caught:
        open_dataset(name, tmp_path)
    assert '(missing)' in str(caught.value)
    assert str(caught.value).endswith(f'Found in {tmp_path}: notes.txt, photos/')


def test_only_what_is_missing_is_marked(tmp_path):
    published.coco(tmp_path)
    (tmp_path / 'val2017').rename(tmp_path / 'images')
    with pytest.raises(DataError) as caught:
        open_dataset('coco-panoptic', tmp_path)
    first = str(caught.value).split('Expected ')[1].split(';')[0]
    assert first == (
        f'{tmp_path}/val2017 (missing), {tmp_path}/annotations/panoptic_val2017, '
        f'{tmp_path}/annotations/panoptic_val2017.json'
    )


def test_a_root_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match=r'Found in .*nowhere: nothing: No such file'):
        open_dataset('cityscapes', tmp_path / 'nowhere')


def test_an_empty_folder_of_maps(tmp_path):
    published.ade_semantic(tmp_path)
    for path in (tmp_path / 'ADEChallengeData2016/annotations/validation').iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r'annotations/validation \(without any \*\.png\)'):
        open_dataset('ade20k-150', tmp_path)


def test_a_json_without_images(tmp_path):
    document = published.coco(tmp_path)
    (tmp_path / 'annotations/panoptic_val2017.json').write_text(
        json.dumps({**document, 'images': [], 'annotations': []})
    )
    with pytest.raises(DataError, match=r'panoptic_val2017\.json has no images'):
        open_dataset('coco-panoptic', tmp_path)


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ({'id': 12, 'name': 'car', 'isthing': 1}, r"category 12, 'car', is none of the 133 categories .* 1\.\.200"),
        ({'id': 3, 'name': 'truck', 'isthing': 1}, "category 3 is 'truck', in this data set it is 'car'"),
        ({'id': 3, 'name': 'car', 'isthing': 0}, "category 3, 'car', is stuff, in this data set it is a thing"),
    ],
)
def test_a_json_with_other_categories(tmp_path, entry, message):
    document = published.coco(tmp_path)
    document['categories'].append(entry)
    document['annotations'][1]['segments_info'][0]['category_id'] = entry['id']
    path = tmp_path / 'annotations/panoptic_val2017.json'
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=f'{re.escape(str(path))}: {message}'):
        open_dataset('coco-panoptic', tmp_path)


def test_a_json_may_list_a_category_that_no_segment_has(tmp_path):
    document = published.coco(tmp_path)
    document['categories'].append({'id': 201, 'name': 'unlabeled', 'isthing': 0})
    (tmp_path / 'annotations/panoptic_val2017.json').write_text(json.dumps(document))
    dataset = open_dataset('coco-panoptic', tmp_path)
    assert 201 not in dataset.categories
    assert len(dataset.categories) == 133


@pytest.mark.parametrize(
    ('write', 'name', 'pattern', 'message'),
    [
        (published.coco, 'coco-panoptic', 'val2017/*139.jpg', '1 of 2 files missing: '),
        (published.coco, 'coco-panoptic', 'annotations/panoptic_val2017/*139.png', '1 of 2 files missing: '),
        (published.cityscapes_panoptic, 'cityscapes', 'leftImg8bit/val/frankfurt/*', '1 of 2 files missing: '),
        (published.ade_semantic, 'ade20k-150', '*/images/validation/*1.jpg', '1 of 2 images missing: '),
        (published.ade_semantic, 'ade20k-150', '*/annotations/validation/*1.png', '1 of 2 images without a map: '),
        (published.cityscapes_instances, 'cityscapes', 'leftImg8bit/val/lindau/*', '1 of 2 images missing: '),
        (published.cityscapes_instances, 'cityscapes', 'gtFine/val/*/lindau*instanceIds.png', 'images without a map: '),
    ],
)
def test_missing_files_are_named(tmp_path, write, name, pattern, message):
    write(tmp_path)
    path = next(tmp_path.glob(pattern))
    path.unlink()
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(name, tmp_path)
    assert path.name.split('_gtFine')[0].split('.')[0] in str(caught.value)


@pytest.mark.parametrize(
    ('write', 'name', 'pattern'),
    [
        (published.ade_semantic, 'ade20k-150', '*/annotations/validation/*1.png'),
        (published.ade_semantic, 'ade20k-150', '*/images/validation/*1.jpg'),
        (published.ade_full, 'ade20k-847', '*/annotations_detectron2/validation/*1.tif'),
        (published.cityscapes_instances, 'cityscapes', 'gtFine/val/*/frankfurt*instanceIds.png'),
        (published.cityscapes_instances, 'cityscapes', 'leftImg8bit/val/*/frankfurt*'),
        (published.vistas, 'mapillary-vistas', 'validation/v1.2/panoptic/a*.png'),
    ],
)
@pytest.mark.parametrize('share', [0.0, 0.1, 0.6, 0.95])
def test_files_that_are_cut_off(tmp_path, write, name, pattern, share):
    write(tmp_path)
    path = next(tmp_path.glob(pattern))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    dataset = open_dataset(name, tmp_path)
    with pytest.raises(DataError, match=re.escape(str(path))):
        dataset.image(0), dataset.panoptic_map(0)


@pytest.mark.parametrize(
    ('write', 'name', 'pattern', 'says'),
    [
        (published.ade_semantic, 'ade20k-150', '*/images/validation/*1.jpg', 'annotations/validation'),
        (published.cityscapes_instances, 'cityscapes', 'leftImg8bit/val/*/frankfurt*', 'gtFine/val'),
        (published.coco, 'coco-panoptic', 'val2017/*139.jpg', r'panoptic_val2017\.json'),
    ],
)
def test_images_of_another_size_than_their_maps(tmp_path, write, name, pattern, says):
    write(tmp_path)
    path = next(tmp_path.glob(pattern))
    published.write_image(path, (HEIGHT, WIDTH + 4))
    dataset = open_dataset(name, tmp_path)
    with pytest.raises(DataError, match=f'{path.name} is 64x40, .*{says} says 60x40'):
        dataset.image(0)


@pytest.mark.parametrize(
    ('write', 'name', 'pattern', 'value', 'message'),
    [
        (published.ade_semantic, 'ade20k-150', 'A*/annotations/validation/*1.png', 151, '151, expected 1..150, or 0'),
        (published.ade_full, 'ade20k-847', '*/annotations_d*/validation/*1.tif', 847, '847, expected 0..846, or 65535'),
        (published.cityscapes_instances, 'cityscapes', 'gtFine/*/*/f*instanceIds.png', 34, '34, whose labels'),
        (published.cityscapes_instances, 'cityscapes', 'gtFine/*/*/f*instanceIds.png', 34005, '34005, whose labels'),
    ],
)
def test_values_that_mean_nothing(tmp_path, write, name, pattern, value, message):
    write(tmp_path)
    path = next(tmp_path.glob(pattern))
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    values[3, 5] = value
    cv2.imwrite(str(path), values)
    with pytest.raises(DataError, match=f'{path.name} has the values {re.escape(message)}'):
        open_dataset(name, tmp_path).panoptic_map(0)


@pytest.mark.parametrize('values', [np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.float32)])
def test_maps_of_another_kind(tmp_path, values):
    published.ade_full(tmp_path)
    path = next(tmp_path.glob('*/annotations_detectron2/validation/*1.tif'))
    cv2.imwrite(str(path), values)
    with pytest.raises(DataError, match=f'channels of {values.dtype}, expected 1 of uint8 or uint16'):
        open_dataset('ade20k-847', tmp_path).panoptic_map(0)


@pytest.mark.parametrize(
    ('name', 'split', 'message'),
    [
        ('ade20k', 'val', "there is no data set 'ade20k', choose from coco-panoptic, ade20k-150"),
        ('cityscapes', 'test', "data set cityscapes has no split 'test', choose from train, val"),
    ],
)
def test_unknown_names(tmp_path, name, split, message):
    with pytest.raises(DataError, match=message):
        open_dataset(name, tmp_path, split)
    if split == 'val':
        with pytest.raises(DataError, match=message):
            vocabulary_of(name)


def test_a_data_set_that_has_no_maps_of_classes_is_opened_with_its_instances(tmp_path):
    published.coco(tmp_path)
    dataset = open_dataset('coco-panoptic', tmp_path, semantic=True)
    assert dataset.has_instances
    assert len(dataset) == 2

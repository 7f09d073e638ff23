import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
import pytest

from fisa_ros.core.errors import DataError, ImageError
from fisa_ros.datasets import site_images
from fisa_ros.datasets.coco_panoptic import PanopticDataset, encode_ids
from fisa_ros.datasets.site_images import Draw, SiteDataset, find_annotations, open_folder, open_site, part_of

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / 'site'
    images.mkdir()
    for number, name in enumerate(('b_10.png', 'b_9.png')):
        cv2.imwrite(str(images / name), np.full((8, 12, 3), 40 * number + 9, np.uint8))
    return images


def instances(*annotations, **changes):
    images = [
        {'id': 5, 'file_name': 'b_9.png', 'height': 8, 'width': 12},
        {'id': 6, 'file_name': 'b_10.png', 'height': 8, 'width': 12},
    ]
    categories = [{'id': 1, 'name': 'forklift'}, {'id': 2, 'name': 'tire', 'isthing': 1}]
    return {'images': images, 'annotations': list(annotations), 'categories': categories, **changes}


def annotation(segmentation, category=1, image=5, **more):
    return {'image_id': image, 'category_id': category, 'segmentation': segmentation, **more}


def write(folder, document):
    path = folder.with_name('site.json')
    path.write_text(json.dumps(document))
    return path


def run_lengths(rows, columns):
    mask = np.zeros((8, 12), np.uint8)
    mask[rows, columns] = 1
    return coco_mask.encode(np.asfortranarray(mask))


def test_polygons_and_run_lengths_of_both_forms(folder):
    compressed = run_lengths(slice(3, 5), slice(4, 6))
    plain = {'size': [8, 12], 'counts': [0, 8, 88]}
    path = write(
        folder,
        instances(
            annotation([SQUARE]),
            annotation({'size': [8, 12], 'counts': compressed['counts'].decode()}, 2, iscrowd=1),
            annotation(plain, 2, image=6),
        ),
    )
    dataset = open_site(folder, path)
    assert len(dataset) == 2
    assert {key: entry.name for key, entry in dataset.categories.items()} == {1: 'forklift', 2: 'tire'}
    panoptic_map = dataset.panoptic_map(0)
    of = {segment.category_id: segment for segment in dataset.records[0].segments}
    # The polygon is 4x4; the smaller mask lies on it and is in front.
    assert (panoptic_map == of[1].id).sum() == 16 - 4
    assert (panoptic_map == of[2].id)[3:5, 4:6].all()
    assert of[2].is_crowd
    assert (dataset.panoptic_map(1) > 0).sum() == 8
    assert (dataset.panoptic_map(1)[:, 0] == 1).all()
    assert dataset.image(0).shape == (8, 12, 3)
    assert dataset.image(0)[0, 0, 0] == 49


def test_hidden_masks_and_images_without_masks(folder):
    twice = annotation([SQUARE])
    dataset = open_site(folder, write(folder, instances(twice, annotation([SQUARE], 2))))
    assert len(dataset.records[0].segments) == 1
    assert dataset.records[1].segments == ()
    assert not dataset.panoptic_map(1).any()


def test_a_panoptic_file_is_known_by_its_content(folder):
    panoptic = folder.with_name('site')
    for name in ('b_9', 'b_10'):
        cv2.imwrite(str(panoptic / f'{name}.map.png'), encode_ids(np.full((8, 12), 3)))
    segments = [{'id': 3, 'category_id': 1}]
    document = instances()
    document['categories'][0]['isthing'] = 1
    document['annotations'] = [
        {'image_id': image, 'file_name': f'{name}.map.png', 'segments_info': segments}
        for image, name in ((5, 'b_9'), (6, 'b_10'))
    ]
    path = write(folder, document)
    dataset = open_site(folder, path)
    assert type(dataset) is PanopticDataset
    assert (dataset.panoptic_map(0) == 3).all()
    assert [record.image_id for record in part_of(dataset, [1]).records] == [6]
    cv2.imwrite(str(panoptic / 'b_10.map.png'), encode_ids(np.full((12, 8), 3)))
    with pytest.raises(DataError, match=r'b_10.map.png is 8x12, .*site.json says 12x8'):
        open_site(folder, path)


@pytest.mark.parametrize(
    ('document', 'message'),
    [
        (instances(annotation([SQUARE], 9)), 'unknown category 9, known are 1, 2'),
        (instances(annotation([SQUARE], image=7)), 'annotation of image 7, which it does not list'),
        (instances(annotation([[1, 2, 3, 4]])), 'a polygon needs 3 points or more'),
        (instances(annotation([SQUARE], id=3), annotation([], id=4)), 'image 5, annotation 4: it has no polygon'),
        (instances(annotation({'size': [8, 12], 'counts': [90]})), 'do not add up to the 96 pixels'),
        (instances(annotation({'size': [8, 12], 'counts': [1, -1, 96]})), 'do not add up'),
        (instances(annotation({'size': [12, 8], 'counts': [96]})), r'size \[12, 8\], the image of \[8, 12\]'),
        (instances(annotation(7)), 'neither in the COCO panoptic format nor of COCO instances'),
        (instances(images=[]), 'lists no images'),
        ({'images': []}, 'neither in the COCO panoptic format'),
        (instances(images=[{'id': 1, 'file_name': 'x.png', 'height': 8, 'width': 12}]), '1 of 1 images are missing'),
    ],
)
def test_broken_files_are_refused(folder, document, message):
    with pytest.raises(DataError, match=message):
        open_site(folder, write(folder, document))


def test_an_image_that_is_listed_twice_is_refused(folder):
    images = [{'id': number, 'file_name': 'b_9.png', 'height': 8, 'width': 12} for number in (5, 6)]
    path = write(folder, instances(annotation([SQUARE]), images=images))
    with pytest.raises(DataError, match=r'site.json lists an image more than once: b_9.png'):
        open_site(folder, path)


def test_run_lengths_that_lead_out_of_the_image_are_refused(folder):
    wrong = coco_mask.encode(np.asfortranarray(np.ones((40, 40), np.uint8)))['counts'].decode()
    with pytest.raises(DataError, match='run lengths do not add up'):
        open_site(folder, write(folder, instances(annotation({'size': [8, 12], 'counts': wrong}))))


def test_images_of_another_size_or_half_written(folder):
    cv2.imwrite(str(folder / 'b_9.png'), np.zeros((5, 5, 3), np.uint8))
    dataset = open_site(folder, write(folder, instances(annotation([SQUARE]))))
    with pytest.raises(DataError, match=r'is 5x5, .* says 12x8'):
        dataset.image(0)
    whole = (folder / 'b_10.png').read_bytes()
    (folder / 'b_10.png').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r'b_10.png .*its end is missing'):
        dataset.image(1)
    with pytest.raises(ImageError, match='its end is missing'):
        open_folder(folder)


def test_a_folder_alone(folder):
    dataset = open_folder(folder)
    assert isinstance(dataset, SiteDataset)
    assert [record.image_path.name for record in dataset.records] == ['b_9.png', 'b_10.png']
    assert not dataset.panoptic_map(1).any()
    assert [record.image_path.name for record in part_of(dataset, [1]).records] == ['b_10.png']


def test_too_many_images_are_refused_or_drawn(folder, monkeypatch):
    monkeypatch.setattr(site_images, 'MAX_IMAGES', 1)
    path = write(folder, instances(annotation([SQUARE]), annotation([SQUARE], image=6)))
    with pytest.raises(DataError, match=r'site.json holds 2 images, 1 to 1 are taken'):
        open_site(folder, path)
    with pytest.raises(DataError, match='site holds 2 images, 1 to 1 are taken'):
        open_folder(folder)
    names = set()
    for seed in range(8):
        (record,) = open_site(folder, path, Draw(1, seed)).records
        names.add(record.image_path.name)
        assert open_site(folder, path, Draw(1, seed)).panoptic_map(0).any()
        assert len(open_folder(folder, Draw(1, seed))) == 1
        assert open_site(folder, path, Draw(1, seed)).records[0].image_id == record.image_id
    assert names == {'b_9.png', 'b_10.png'}
    assert len(open_folder(folder, Draw(5, 0))) == 2


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match='holds 0 images, 1 to 2000 are taken'):
        open_folder(tmp_path)
    with pytest.raises(DataError, match='is not a folder'):
        open_folder(tmp_path / 'none')


def test_the_folder_may_be_the_current_one_or_one_above(folder, monkeypatch):
    path = write(folder, instances())
    (folder / 'below').mkdir()
    monkeypatch.chdir(folder)
    assert find_annotations(Path()) == path
    monkeypatch.chdir(folder / 'below')
    assert find_annotations(Path('..')) == path


def test_annotations_are_found_where_people_put_them(folder):
    assert find_annotations(folder) is None
    # What is in one image is no annotation of all.
    (folder / 'b_9.json').write_text('[tire]')
    assert find_annotations(folder) is None
    coco = folder.parent / 'annotations' / 'panoptic_site.json'
    coco.parent.mkdir()
    coco.write_text('{}')
    assert find_annotations(folder) == coco
    (folder / 'export.json').write_text('{}')
    with pytest.raises(DataError, match=r'several files of annotations, choose one by --annotations: .*export.json'):
        find_annotations(folder)

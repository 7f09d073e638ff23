import copy
import json
from pathlib import Path
import re

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import DatasetCategory, PanopticDataset, SegmentInfo, encode_ids

CHAIR, WALL = 7, 93
# Of one byte, of two and of three; the last is one pixel.
IDS = (5, 258, 1 + 2 * 256 + 3 * 65536)


def panoptic_map():
    ids = np.zeros((12, 16), np.int32)
    ids[:6, :8], ids[6:, :8], ids[11, 15] = IDS
    return ids


def document():
    segments = [
        {'id': number, 'category_id': category, 'area': 1, 'bbox': [0, 0, 1, 1], 'iscrowd': crowd}
        for number, category, crowd in zip(IDS, (CHAIR, WALL, CHAIR), (0, 0, 1), strict=True)
    ]
    return {
        'categories': [
            {'id': WALL, 'name': 'wall', 'isthing': 0},
            {'id': CHAIR, 'name': 'chair', 'isthing': 1, 'supercategory': 'furniture'},
        ],
        'images': [
            {'id': 40, 'file_name': 'one.jpg', 'height': 12, 'width': 16},
            {'id': 3, 'file_name': 'two.jpg', 'height': 12, 'width': 16},
        ],
        'annotations': [
            {'image_id': 3, 'file_name': 'two.png', 'segments_info': []},
            {'image_id': 40, 'file_name': 'one.png', 'segments_info': segments},
        ],
    }


class Files:
    """A data set on disk that a test can harm before it is opened."""

    def __init__(self, root):
        self.images, self.json = root / 'val', root / 'panoptic_val.json'
        self.maps = root / 'panoptic_val'
        self.images.mkdir()
        self.maps.mkdir()
        self.document = document()
        rgb = np.zeros((12, 16, 3), np.uint8)
        rgb[...] = (200, 40, 10)
        for name in ('one', 'two'):
            cv2.imwrite(str(self.images / f'{name}.jpg'), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        self.write_map('one', panoptic_map())
        self.write_map('two', np.zeros((12, 16), np.int32))

    def write_map(self, name, ids):
        cv2.imwrite(str(self.maps / f'{name}.png'), encode_ids(ids))

    def open(self):
        self.json.write_text(json.dumps(self.document))
        return PanopticDataset.open(self.images, self.json)

    @property
    def segments(self):
        return self.document['annotations'][1]['segments_info']


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_what_the_file_says(files):
    dataset = files.open()
    assert len(dataset) == 2
    assert list(dataset.categories.values()) == [
        DatasetCategory(WALL, 'wall', False),
        DatasetCategory(CHAIR, 'chair', True),
    ]
    first, second = dataset.records
    assert (first.image_id, first.size_hw, first.image_path.name, first.map_path.name) == (
        40, (12, 16), 'one.jpg', 'one.png',
    )  # fmt: skip
    assert first.segments == (
        SegmentInfo(IDS[0], CHAIR, False), SegmentInfo(IDS[1], WALL, False), SegmentInfo(IDS[2], CHAIR, True),
    )  # fmt: skip
    assert second.segments == ()


def test_maps_of_ids_of_any_size_and_of_one_pixel(files):
    found = files.open().panoptic_map(0)
    assert found.dtype == np.int32
    assert np.array_equal(found, panoptic_map())
    assert np.count_nonzero(found == IDS[2]) == 1


def test_a_png_as_the_format_defines_it(files):
    """Written without our encoder: id = R + 256 G + 65536 B."""
    bgr = np.zeros((12, 16, 3), np.uint8)
    bgr[:6, :8] = (0, 0, 5)
    bgr[6:, :8] = (0, 1, 2)
    bgr[11, 15] = (3, 2, 1)
    cv2.imwrite(str(files.maps / 'one.png'), bgr)
    assert np.array_equal(files.open().panoptic_map(0), panoptic_map())


def test_images_are_rgb(files):
    image = files.open().image(0)
    assert image.shape == (12, 16, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.reshape(-1, 3).mean(0) - (200, 40, 10)).max() < 4


def test_grey_images_are_read_as_rgb(files):
    cv2.imwrite(str(files.images / 'one.jpg'), np.full((12, 16), 90, np.uint8))
    assert np.abs(files.open().image(0).astype(int) - 90).max() < 4


def test_an_image_without_segments(files):
    assert not files.open().panoptic_map(1).any()


def test_an_empty_data_set(files):
    files.document.update(images=[], annotations=[])
    assert len(files.open()) == 0


def test_iscrowd_may_be_missing(files):
    for segment in files.segments:
        del segment['iscrowd']
    assert not any(segment.is_crowd for segment in files.open().records[0].segments)


def test_annotations_of_absent_images_are_left_out(files):
    files.document['annotations'].append({'image_id': 99, 'file_name': 'no.png', 'segments_info': []})
    assert len(files.open()) == 2


@pytest.mark.parametrize('kind', ['images/one.jpg', 'maps/two.png'])
def test_missing_files_are_named(files, kind):
    folder, name = kind.split('/')
    path = getattr(files, folder) / name
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f'1 of 2 files missing: {path}')):
        files.open()


def test_files_of_the_current_folder_are_found(files, monkeypatch):
    files.document['images'][0]['file_name'] = '../val/one.jpg'
    files.open()
    monkeypatch.chdir(files.images)
    assert len(PanopticDataset.open(Path(), files.json)) == 2
    monkeypatch.chdir(files.maps)
    with pytest.raises(DataError, match=r'1 of 2 files missing: two\.jpg'):
        PanopticDataset.open(Path(), files.json)


def test_image_ids_may_be_names(files):
    for section, key in (('images', 'id'), ('annotations', 'image_id')):
        for entry in files.document[section]:
            entry[key] = f'image {entry[key]}'
    assert [record.image_id for record in files.open().records] == ['image 40', 'image 3']


@pytest.mark.parametrize('image_id', [None, 1.5, [3]])
def test_other_image_ids_are_refused(files, image_id):
    files.document['images'][1]['id'] = files.document['annotations'][0]['image_id'] = image_id
    with pytest.raises(DataError, match='not in the COCO panoptic format: TypeError'):
        files.open()


def test_many_missing_files_are_counted(files):
    for number in range(20):
        files.document['images'].append({'id': 100 + number, 'file_name': f'{number}.jpg', 'height': 12, 'width': 16})
        files.document['annotations'].append({'image_id': 100 + number, 'file_name': 'one.png', 'segments_info': []})
    with pytest.raises(DataError, match=r'20 of 22 files missing: .*0\.jpg.* and 15 more'):
        files.open()


def test_png_and_json_that_disagree(files):
    files.segments[1]['id'] = 259
    dataset = files.open()
    expected = 'disagree on the segments of it: only in the PNG: 258; only in the JSON: 259'
    with pytest.raises(DataError, match=expected) as caught:
        dataset.panoptic_map(0)
    assert str(files.maps / 'one.png') in str(caught.value)
    assert str(files.json) in str(caught.value)


@pytest.mark.parametrize(('name', 'side'), [('PNG', 'only in the PNG: 5, 258'), ('JSON', 'only in the JSON: 5')])
def test_disagreement_of_one_side(files, name, side):
    if name == 'PNG':
        del files.segments[:2]
    else:
        ids = panoptic_map()
        ids[ids == IDS[0]] = 0
        files.write_map('one', ids)
    with pytest.raises(DataError, match=f'{side}$'):
        files.open().panoptic_map(0)


def test_unknown_categories_are_named(files):
    files.segments[0]['category_id'] = 8
    with pytest.raises(DataError, match=r'image 40: unknown categories 8, known are 93, 7'):
        files.open()


@pytest.mark.parametrize('value', [IDS[1], 0, -4])
def test_segment_ids_must_be_unique_and_positive(files, value):
    files.segments[0]['id'] = value
    with pytest.raises(DataError, match=f'image 40: segment ids must be unique and 1 or more, got {value}'):
        files.open()


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('categories', 'category ids are not unique'),
        ('images', 'image ids are not unique'),
        ('annotations', 'two annotations of image'),
    ],
)
def test_duplicates_are_refused(files, kind, message):
    files.document[kind].append(copy.deepcopy(files.document[kind][0]))
    with pytest.raises(DataError, match=message):
        files.open()


def test_images_without_annotation_are_named(files):
    del files.document['annotations'][0]
    with pytest.raises(DataError, match='images without an annotation: 3'):
        files.open()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{"images": [', 'cannot be read'),
        (b'', 'cannot be read'),
        (b'\xff\xfe\x00', 'cannot be read'),
        (b'[1, 2]', 'must hold a mapping, not list'),
        (b'{}', "not in the COCO panoptic format: KeyError 'categories'"),
        (b'{"categories": 5, "images": [], "annotations": []}', 'not in the COCO panoptic format: TypeError'),
        (b'{"categories": [], "images": ["a"], "annotations": []}', 'not in the COCO panoptic format: TypeError'),
    ],
)
def test_broken_json(files, content, message):
    files.json.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        PanopticDataset.open(files.images, files.json)
    assert str(files.json) in str(caught.value)


@pytest.mark.parametrize(
    ('section', 'key'),
    [('images', 'file_name'), ('images', 'width'), ('annotations', 'segments_info'), ('categories', 'isthing')],
)
def test_missing_fields(files, section, key):
    del files.document[section][0][key]
    with pytest.raises(DataError, match=f"format: KeyError '{key}'"):
        files.open()


@pytest.mark.parametrize('value', ['x', None, [1]])
@pytest.mark.parametrize('key', ['id', 'category_id'])
def test_fields_of_a_wrong_type(files, key, value):
    files.segments[0][key] = value
    with pytest.raises(DataError, match='not in the COCO panoptic format'):
        files.open()


def test_a_missing_json(tmp_path):
    with pytest.raises(DataError, match=r'none\.json cannot be read'):
        PanopticDataset.open(tmp_path, tmp_path / 'none.json')


@pytest.mark.parametrize('size', [0, 8, 60])
def test_a_truncated_png(files, size):
    path = files.maps / 'one.png'
    content = path.read_bytes()
    assert len(content) > 60
    path.write_bytes(content[:size])
    with pytest.raises(DataError, match=re.escape(str(path))):
        files.open().panoptic_map(0)


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_jpeg(files, share):
    path = files.images / 'one.jpg'
    files.document['images'][0].update(width=160, height=120)
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    content = cv2.imencode('.jpg', noise)[1].tobytes()
    path.write_bytes(content)
    assert files.open().image(0).shape == (120, 160, 3)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=re.escape(str(path))):
        files.open().image(0)


def test_an_image_of_another_size(files):
    cv2.imwrite(str(files.images / 'one.jpg'), np.zeros((16, 12, 3), np.uint8))
    with pytest.raises(DataError, match=r'one\.jpg is 12x16, .*panoptic_val\.json says 16x12'):
        files.open().image(0)


def test_a_map_of_another_size(files):
    files.write_map('one', panoptic_map()[:, :10])
    with pytest.raises(DataError, match=r'one\.png is 10x12, .*panoptic_val\.json says 16x12'):
        files.open().panoptic_map(0)


@pytest.mark.parametrize('number', [1, 255, 256, 65535, 65536, 16_777_215])
def test_ids_survive_encoding(number, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), encode_ids(np.full((2, 2), number, np.uint32)))
    blue, green, red = cv2.imread(str(tmp_path / 'a.png'))[0, 0].astype(int)
    assert red + 256 * green + 65536 * blue == number

import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.category_table import CategoryTable
from fisa_ros.datasets.self_described_maps import CityscapesCoding, MapRecords, SemanticCoding, pair_files

from .published import write_map


@pytest.mark.parametrize(
    ('first_value', 'void_value', 'count', 'dtype'),
    [(1, 0, 150, np.uint8), (0, 255, 59, np.uint8), (0, 255, 255, np.uint8), (0, 65535, 847, np.uint16)],
)
def test_every_value_of_a_semantic_map_is_its_category(tmp_path, first_value, void_value, count, dtype):
    categories = tuple(1000 + 3 * row for row in range(count))
    coding = SemanticCoding(categories, first_value, void_value)
    rng = np.random.default_rng(count)
    values = rng.permutation(np.append(np.arange(first_value, first_value + count), void_value)).astype(dtype)
    path = tmp_path / 'map.png'
    write_map(path, values[None].repeat(3, 0))
    ids = coding.read_ids(path)
    assert ids.dtype == np.int32
    assert ids.shape == (3, count + 1)
    for value, segment_id in zip(values.tolist(), ids[1].tolist(), strict=True):
        if value == void_value:
            assert segment_id == 0
        else:
            segment = coding.segment(segment_id)
            assert (segment.id, segment.category_id) == (segment_id, categories[value - first_value])
            assert not segment.is_crowd


@pytest.mark.parametrize(('first_value', 'void_value', 'wrong'), [(1, 0, 6), (0, 255, 5), (0, 255, 254), (2, 0, 1)])
def test_other_values_are_refused(tmp_path, first_value, void_value, wrong):
    path = tmp_path / 'map.png'
    write_map(path, np.array([[first_value, void_value, wrong]], np.uint8))
    with pytest.raises(DataError, match=rf'map\.png has the values {wrong}, expected {first_value}\.\.'):
        SemanticCoding((0, 1, 2, 3, 4), first_value, void_value).read_ids(path)


def test_random_maps_of_cityscapes(tmp_path):
    """Against a rule spelled out value by value."""
    categories = CategoryTable.shipped('cityscapes').spoken
    coding = CityscapesCoding(categories)
    labels = np.random.default_rng(7).integers(0, 34, 400)
    numbers = np.random.default_rng(8).integers(-1, 4, 400)
    # -1: without a number.
    values = np.where(numbers < 0, labels, labels * 1000 + numbers)
    path = tmp_path / 'map.png'
    write_map(path, values.reshape(20, 20).astype(np.uint16))
    ids = coding.read_ids(path)
    [record] = MapRecords([('map', path, path)], coding)
    segments = {segment.id: segment for segment in record.segments}
    assert set(segments) == set(np.unique(ids).tolist()) - {0}
    for value, segment_id in zip(values.tolist(), ids.ravel().tolist(), strict=True):
        label = value if value < 1000 else value // 1000
        if label not in categories:
            assert segment_id == 0
            continue
        assert segment_id == value
        assert segments[value].category_id == label
        assert segments[value].is_crowd == (label >= 24 and value < 1000)


def test_images_are_found_in_the_subfolder_of_their_map(tmp_path):
    names = ('a/1_x.jpg', 'b/1_x.jpg', '2_x.jpg', 'a/.3_x.jpg', 'a/notes.txt')
    for name in names:
        for folder, end in (('images', ''), ('maps', '.png')):
            path = tmp_path / folder / f'{name}{end}'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    images, maps = tmp_path / 'images', tmp_path / 'maps'
    assert pair_files(images, '_x.jpg', maps, '_x.jpg.png') == [
        (stem.split('/')[-1], images / f'{stem}_x.jpg', maps / f'{stem}_x.jpg.png') for stem in ('2', 'a/1', 'b/1')
    ]
    (images / 'a/1_x.jpg').unlink()
    with pytest.raises(DataError, match=r'maps: 1 of 3 images missing: .*images/a/1_x\.jpg$'):
        pair_files(images, '_x.jpg', maps, '_x.jpg.png')
    (maps / 'a/1_x.jpg.png').unlink()
    (maps / '2_x.jpg.png').unlink()
    with pytest.raises(DataError, match=r'maps: 1 of 2 images without a map: .*images/2_x\.jpg$'):
        pair_files(images, '_x.jpg', maps, '_x.jpg.png')
    assert len(pair_files(images, '_x.jpg', maps, '_x.jpg.png', has_other_images=True)) == 1


def test_folders_that_cannot_be_listed(tmp_path):
    (tmp_path / 'images').mkdir()
    with pytest.raises(DataError, match=r'maps cannot be listed: .*No such file'):
        pair_files(tmp_path / 'images', '.jpg', tmp_path / 'maps', '.png')
    (tmp_path / 'maps').mkdir()
    with pytest.raises(DataError, match=r'maps has no files \*\.png'):
        pair_files(tmp_path / 'images', '.jpg', tmp_path / 'maps', '.png')

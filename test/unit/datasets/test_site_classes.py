from dataclasses import replace

import numpy as np
import pytest

from fisa_ros.core.errors import DataError, VocabularyError
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.coco_panoptic import DatasetCategory, ImageRecord, SegmentInfo
from fisa_ros.datasets.site_classes import (
    NEW_CROWD,
    UNKNOWN,
    extend_vocabulary,
    number_categories,
    read_image_names,
    site_classes,
    vocabulary_text,
)
from fisa_ros.datasets.site_images import PackedMask, SiteDataset

BASE = VocabularyRequest(('chair, seat', 'floor'), ('floor',), (40, None))


@pytest.fixture
def dataset(tmp_path):
    categories = (
        (1, 'Seat', True),
        (2, 'fork-lift', True),
        (3, 'tire', True),
        (4, 'oil stain', False),
        (9, 'cat', True),
    )
    segments = tuple(SegmentInfo(number, number, False) for number in (1, 2, 3, 4))
    record = ImageRecord(1, tmp_path / 'a.png', tmp_path / 'a.png', (4, 4), segments)
    masks = tuple(PackedMask.of(np.arange(16).reshape(4, 4) // 4 == row) for row in range(4))
    table = {entry[0]: DatasetCategory(*entry) for entry in categories}
    return SiteDataset(tmp_path / 'site.json', table, (record,), masks=(masks,))


def test_new_classes_follow_the_base_classes():
    classes = extend_vocabulary(BASE, ['forklift, lift truck', 'oil stain'], ['oil stain'])
    assert [(entry.id, entry.name, entry.is_thing) for entry in classes.vocabulary.classes] == [
        (1, 'chair', True), (2, 'floor', False), (3, 'forklift', True), (4, 'oil stain', False),
    ]  # fmt: skip
    assert [entry.name for entry in classes.base.classes] == ['chair', 'floor']
    assert classes.new_numbers == {3, 4}
    assert [classes.number_of(name) for name in ('SEAT', 'lift truck', 'moon')] == [1, 3, UNKNOWN]


@pytest.mark.parametrize('name', ['Seat', 'forklift, chair'])
def test_what_the_base_vocabulary_has_is_not_new(name):
    with pytest.raises(VocabularyError, match="is in the base vocabulary already, in class 'chair'"):
        extend_vocabulary(BASE, [name])


def test_what_occurs_and_is_not_known_is_new(dataset):
    classes = site_classes(BASE, dataset, [])
    assert [(entry.name, entry.is_thing) for entry in classes.new] == [
        ('fork-lift', True), ('tire', True), ('oil stain', False),
    ]  # fmt: skip
    numbered = number_categories(dataset, classes)
    assert [segment.category_id for segment in numbered.records[0].segments] == [1, 3, 4, 5]
    assert numbered.categories[1].name == 'chair'
    assert np.array_equal(numbered.panoptic_map(0), dataset.panoptic_map(0))


def test_given_names_choose_and_add_synonyms(dataset):
    classes = site_classes(BASE, dataset, ['tire, tyre'])
    assert [entry.names for entry in classes.new] == [('tire', 'tyre')]
    numbered = number_categories(dataset, classes)
    assert [segment.category_id for segment in numbered.records[0].segments] == [1, UNKNOWN, 3, UNKNOWN]


def test_nothing_new_or_not_there(dataset):
    with pytest.raises(DataError, match=r'has no mask of ladder: it has Seat, fork-lift, tire, oil stain'):
        site_classes(BASE, dataset, ['ladder'])
    known = VocabularyRequest(('seat', 'fork-lift', 'tire', 'oil stain'))
    with pytest.raises(DataError, match='masks of base classes alone, nothing new'):
        site_classes(known, dataset, [])


def test_names_of_categories_become_words(dataset):
    def renamed(name):
        table = {
            key: replace(entry, name=name if key == 2 else entry.name) for key, entry in dataset.categories.items()
        }
        return replace(dataset, categories=table)

    classes = site_classes(BASE, renamed('wet_floor_sign'), [])
    assert [entry.name for entry in classes.new] == ['wet floor sign', 'tire', 'oil stain']
    assert number_categories(renamed('wet_floor_sign'), classes).records[0].segments[1].category_id == 3
    with pytest.raises(DataError, match=r"site.json: name '\?' has no letter or digit"):
        site_classes(BASE, renamed('?'), [])
    with pytest.raises(DataError, match=r"site.json: name 'tire' occurs in two classes"):
        site_classes(BASE, renamed('tire'), [])
    (record,) = dataset.records
    with pytest.raises(DataError, match=r'site.json has no mask of anything'):
        site_classes(BASE, replace(dataset, records=(replace(record, segments=()),)), [])


def as_groups(dataset, *category_ids):
    (record,) = dataset.records
    segments = [replace(entry, is_crowd=entry.category_id in category_ids) for entry in record.segments]
    return replace(dataset, records=(replace(record, segments=tuple(segments)),))


def test_groups_keep_their_area_and_teach_nothing(dataset):
    # Another tire is told apart.
    two = replace(dataset.records[0], segments=(*dataset.records[0].segments, SegmentInfo(5, 3, False)))
    dataset = as_groups(replace(dataset, records=(two,)), 1, 2)
    classes = site_classes(BASE, dataset, ['tire', 'oil stain'])
    tire, stain = classes.number_of('tire'), classes.number_of('oil stain')
    crowded = as_groups(dataset, 1, 3)
    numbered = number_categories(crowded, classes)
    # Of a base class, of none, of a new one, told apart, of a new one.
    expected = [UNKNOWN, UNKNOWN, NEW_CROWD, stain, NEW_CROWD]
    assert [segment.category_id for segment in numbered.records[0].segments] == expected
    assert not any(segment.is_crowd for segment in numbered.records[0].segments)
    assert tire != stain


def test_a_class_of_groups_alone_is_not_learnt(dataset):
    classes = site_classes(BASE, as_groups(dataset, 2), [])
    assert [entry.name for entry in classes.new] == ['tire', 'oil stain']
    hint = r'fork-lift are groups alone \(iscrowd 1\), which teach nothing: mark each object'
    with pytest.raises(DataError, match=f'has no mask of fork-lift: it has .*; {hint}'):
        site_classes(BASE, as_groups(dataset, 2), ['fork-lift'])
    with pytest.raises(DataError, match=r'nothing new to learn: .*; fork-lift, tire, oil stain are groups alone'):
        site_classes(BASE, as_groups(dataset, 2, 3, 4), [])


def test_the_vocabulary_can_be_read_back(tmp_path):
    classes = extend_vocabulary(BASE, ['forklift, lift truck'])
    (tmp_path / 'site.yaml').write_text(vocabulary_text(classes, 'Words of a site.'))
    read = VocabularyRegistry().propose(VocabularyRequest.parse(str(tmp_path / 'site.yaml')))
    assert [(entry.names, entry.is_thing) for entry in read.classes] == [
        (entry.names, entry.is_thing) for entry in classes.vocabulary.classes
    ]


@pytest.mark.parametrize(
    ('suffix', 'text', 'names'),
    [
        ('.txt', 'forklift\n tire; wet floor sign\n\n', ['forklift', 'tire', 'wet floor sign']),
        ('.yaml', '- forklift\n- tire\n', ['forklift', 'tire']),
        ('.json', '["tire"]', ['tire']),
    ],
)
def test_names_beside_an_image(tmp_path, suffix, text, names):
    image = tmp_path / 'a.jpg'
    assert read_image_names(image) is None
    image.with_suffix(suffix).write_text(text)
    assert read_image_names(image) == names


@pytest.mark.parametrize('text', ['{tire: 2}', '[1]', '- [', 'tire'])
def test_names_that_are_no_list(tmp_path, text):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(DataError, match=r'a.yaml (must be a list of names|cannot be read)'):
        read_image_names(tmp_path / 'a.jpg')

import re

import pytest

from fisa_ros.core.class_names import name_key
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import MONO8_MAX_ID, MONO16_MAX_ID, VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.category_table import CategoryTable
from fisa_ros.datasets.registry import DATASETS, vocabulary_of
from fisa_ros.evaluation.category_map import CategoryMap

# Of categories and of things, as published; Pascal Context and the 847 classes of ADE20K do not say what is a thing.
COUNTS = {
    'coco-panoptic': (133, 80), 'ade20k-150': (150, 100), 'ade20k-847': (847, None), 'cityscapes': (19, 8),
    'mapillary-vistas': (65, 37), 'pascal-context-59': (59, None), 'pascal-context-459': (459, None),
}  # fmt: skip
# Some categories by which a shift or a swap of a list would show.
KNOWN = {
    'coco-panoptic': {1: 'person', 90: 'toothbrush', 92: 'banner', 187: 'sky-other-merged', 200: 'rug-merged'},
    'ade20k-150': {0: 'wall', 12: 'person', 20: 'car', 89: 'tv', 125: 'pot', 149: 'flag'},
    'ade20k-847': {0: 'wall', 20: 'door', 255: 'pier', 500: 'cat', 800: 'dog dish', 838: 'sea star'},
    'cityscapes': {7: 'road', 17: 'pole', 26: 'car', 33: 'bicycle'},
    'mapillary-vistas': {1: 'Bird', 14: 'Road', 44: 'Pothole', 65: 'Ego Vehicle'},
    'pascal-context-59': {0: 'aeroplane', 36: 'person', 49: 'diningtable', 58: 'wood'},
    'pascal-context-459': {0: 'accordion', 44: 'bus', 283: 'person', 458: 'wool'},
}
VOCABULARIES = sorted(
    path
    for path in (share_dir() / 'config' / 'vocabularies').glob('*.yaml')
    if path.stem not in ('indoor_split', 'indoor_synonyms', 'stuff_words')
)


def vocabulary(name):
    return VocabularyRegistry(MONO16_MAX_ID).propose(VocabularyRequest.parse(name))


def words(text):
    return set(re.findall(r'[a-z0-9]+', text.lower()))


@pytest.mark.parametrize('name', DATASETS)
def test_categories_are_those_of_the_data_set(name):
    table = CategoryTable.shipped(name)
    count, things = COUNTS[name]
    assert len(table.published) == len(table.spoken) == count
    assert list(table.published) == sorted(table.published) == list(table.spoken)
    if things is not None:
        assert sum(entry.is_thing for entry in table.published.values()) == things
    assert {key: table.published[key].name for key in KNOWN[name]} == KNOWN[name]


@pytest.mark.parametrize('name', DATASETS)
def test_each_category_has_its_class_in_the_vocabulary(name):
    """At the same place, with the spoken name, the same kind, and a word of the published name."""
    table = CategoryTable.shipped(name)
    classes = vocabulary(vocabulary_of(name)).classes
    assert [entry.name for entry in classes] == [entry.name for entry in table.spoken.values()]
    assert [entry.is_thing for entry in classes] == [entry.is_thing for entry in table.spoken.values()]
    assert [entry.is_thing for entry in classes] == [entry.is_thing for entry in table.published.values()]
    spoken = [entry.name for entry in table.spoken.values()]
    assert len({name_key(text) for text in spoken}) == len(spoken)
    for entry, published in zip(classes, table.published.values(), strict=True):
        assert words(' '.join(entry.names)) & words(published.name), (entry.names, published.name)


@pytest.mark.parametrize('name', DATASETS)
def test_no_class_has_a_published_name_of_another(name):
    parts = [
        {name_key(part.strip()) for part in entry.name.split(',')}
        for entry in CategoryTable.shipped(name).published.values()
    ]
    classes = vocabulary(vocabulary_of(name)).classes
    taken = [
        (entry.name, word)
        for own, entry in zip(parts, classes, strict=True)
        for word in entry.names
        if name_key(word) not in own and any(name_key(word) in other for other in parts)
    ]
    assert taken == []


@pytest.mark.parametrize('name', DATASETS)
def test_categories_find_their_classes_by_name(name):
    """From spoken names in every data set; from published ones where they can be told apart."""
    table = CategoryTable.shipped(name)
    request = VocabularyRequest.parse(vocabulary_of(name))
    for categories in (table.spoken, table.published)[: 1 if name == 'ade20k-847' else 2]:
        found = CategoryMap.from_vocabulary(categories.values(), request)
        assert list(found.class_numbers.values()) == list(range(1, len(categories) + 1))
        assert list(found.class_numbers) == sorted(found.class_numbers)
        assert [found.is_thing[number] for number in found.is_thing] == [
            entry.is_thing for entry in found.vocabulary.classes
        ]


@pytest.mark.parametrize('path', VOCABULARIES, ids=lambda path: path.stem)
def test_shipped_vocabularies_can_be_used(path):
    made = vocabulary(path.stem)
    assert {entry.is_thing for entry in made.classes} == {True, False}
    says_mono16 = 'mask_encoding: mono16' in path.read_text(encoding='utf-8').splitlines()[0]
    assert says_mono16 == (len(made.classes) > MONO8_MAX_ID)
    assert all(len(entry.names) <= 6 for entry in made.classes), 'each name costs time when a model takes the words'


def test_the_vocabulary_of_the_size_of_lvis():
    assert len(vocabulary('lvis-size').classes) == 1203

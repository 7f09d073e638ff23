from dataclasses import replace

import pytest

from fisa_ros.core.class_names import MAX_SYNONYMS
from fisa_ros.core.errors import DataError, VocabularyError
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import DatasetCategory
from fisa_ros.evaluation.category_map import CategoryMap, category_words

CATEGORIES = (
    DatasetCategory(0, 'Couch', True),
    DatasetCategory(90, 'wall-other-merged', False),
    DatasetCategory(17, 'wall-brick', False),
)


def mapped(text, categories=CATEGORIES, **options):
    return CategoryMap.from_vocabulary(categories, VocabularyRequest.parse(text), **options)


@pytest.mark.parametrize(
    ('name', 'label'),
    [
        ('chair', 'chair'),
        ('sky-other-merged', 'sky'),
        ('tree-merged', 'tree'),
        ('door-stuff', 'door'),
        ('water-other', 'water'),
        ('wall-brick', 'brick wall'),
        ('floor-wood', 'wood floor'),
        ('window-blind', 'window blind'),
        ('alarm_clock', 'alarm clock'),
        ('object--vehicle--car', 'car'),
        ('door, double door', 'door'),
        ('windowpane;window', 'windowpane'),
    ],
)
def test_names_become_words(name, label):
    vocabulary = CategoryMap.from_names([DatasetCategory(1, name, True)]).vocabulary
    assert vocabulary.classes[0].name == label
    assert category_words(name)[0] == name


def test_synonyms_in_names_are_kept_once_and_never_in_two_classes():
    names = ('screen door, screen', 'screen, crt screen, monitor', 'bus, autobus, bus', 'pan, pot')
    categories = [DatasetCategory(number, name, True) for number, name in enumerate(names)]
    classes = CategoryMap.from_names(categories).vocabulary.classes
    assert [entry.names for entry in classes] == [
        ('screen door',), ('screen', 'crt screen', 'monitor'), ('bus', 'autobus'), ('pan', 'pot'),
    ]  # fmt: skip


def test_of_too_many_synonyms_the_first_are_kept():
    words = [f'word {number}' for number in range(MAX_SYNONYMS + 3)]
    (entry,) = CategoryMap.from_names([DatasetCategory(1, ', '.join(words), True)]).vocabulary.classes
    assert entry.names == tuple(words[: MAX_SYNONYMS + 1])


def test_kinds_come_from_the_data_set():
    # The shipped list of stuff words has "wall" and does not have "couch".
    categories = [DatasetCategory(1, 'wall', True), DatasetCategory(2, 'couch', False)]
    found = CategoryMap.from_names(categories)
    assert [entry.is_thing for entry in found.vocabulary.classes] == [True, False]
    assert found.is_thing == {1: True, 2: False}


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('?!',), r"category 1, '\?!', cannot be a word: .* no letter or digit"),
        (('cat', ' '), "category 2, ' ', cannot be a word: empty name"),
        (('door', 'door-stuff'), "'door' and 'door-stuff' have the same name 'door'"),
        (('Cat', 'cat'), "'Cat' and 'cat' have the same name 'cat'"),
    ],
)
def test_names_that_cannot_be_words(names, message):
    with pytest.raises(DataError, match=message):
        CategoryMap.from_names([DatasetCategory(number, name, True) for number, name in enumerate(names, start=1)])


def test_categories_find_their_classes_by_any_name_in_any_case():
    found = mapped('brick WALL; grass; Wall; sofa, COUCH')
    assert found.numbers == {0: 1, 90: 2, 17: 3}
    names = {entry.id: entry.name for entry in found.vocabulary.classes}
    assert {names[class_id]: number for class_id, number in found.class_numbers.items()} == {
        'sofa': 1,
        'Wall': 2,
        'brick WALL': 3,
    }
    assert found.names == ('Couch', 'wall-other-merged', 'wall-brick')
    # What no category maps to stays what the vocabulary says.
    assert {entry.name: entry.is_thing for entry in found.vocabulary.classes} == {
        'brick WALL': False,
        'grass': False,
        'Wall': False,
        'sofa': True,
    }


def test_the_literal_name_wins():
    categories = [DatasetCategory(1, 'wall-brick', False), DatasetCategory(2, 'brick wall', False)]
    found = mapped('brick wall; wall-brick', categories)
    assert found.class_numbers == {1: 2, 2: 1}


def test_ids_in_a_vocabulary_do_not_matter(tmp_path):
    path = tmp_path / 'words.yaml'
    path.write_text('classes: [{name: couch, id: 44}, {name: wall, id: 7}, {name: brick wall}]')
    assert mapped(str(path)).class_numbers == {1: 1, 2: 2, 3: 3}


def test_unmapped_categories_are_named_or_void():
    with pytest.raises(DataError, match='1 of 3 categories are in no class of the vocabulary: wall-brick'):
        mapped('couch; wall')
    found = mapped('couch; wall', ignore_unmapped=True)
    assert found.numbers == {0: 1, 90: 2}
    with pytest.raises(DataError, match='3 of 3 categories'):
        mapped('cat', ignore_unmapped=True)


def test_two_categories_of_one_class_are_refused():
    with pytest.raises(DataError, match="'wall-other-merged' and 'wall-brick' are both class 'wall'"):
        mapped('couch; wall, brick wall')


def test_two_categories_of_one_name_are_refused():
    categories = [DatasetCategory(3, 'cat', True), DatasetCategory(4, 'dog', True), DatasetCategory(8, 'cat', False)]
    for make in (CategoryMap.from_names, lambda twice: mapped('cat; dog', twice)):
        with pytest.raises(DataError, match="categories 3 and 8 of the data set are both named 'cat'"):
            make(categories)


def test_rows_of_categories_in_a_vocabulary():
    found = mapped('brick wall; grass; wall; sofa, couch')
    assert found.rows_in(found.vocabulary) == {3: 0, 2: 2, 1: 3}
    part = replace(found.vocabulary, classes=found.vocabulary.classes[:0:-1])
    assert found.rows_in(part) == {1: 0, 2: 1}


def test_more_categories_than_mono8_has_ids():
    found = CategoryMap.from_names([DatasetCategory(number, f'word {number}', True) for number in range(400)])
    assert found.class_numbers[400] == 400
    assert found.numbers[399] == 400


def test_kinds_of_words_keep_ids_and_kinds(tmp_path):
    path = tmp_path / 'synonyms.yaml'
    path.write_text(
        'sofa: {training: [settee, divan], held_out: [loveseat]}\n'
        'Wall: {training: [partition], held_out: [interior wall]}\n'
        'brick wall: {training: [masonry], held_out: []}\n'
    )
    found = mapped('sofa, couch; brick wall; wall')
    assert found.words('vocabulary', path) is found.vocabulary
    assert [entry.names for entry in found.words('names', path).classes] == [('sofa',), ('brick wall',), ('wall',)]
    training = found.words('training', path)
    assert [entry.names for entry in training.classes] == [('settee', 'divan'), ('masonry',), ('partition',)]
    for kind in ('names', 'training'):
        same = [(entry.id, entry.is_thing) for entry in found.words(kind, path).classes]
        assert same == [(entry.id, entry.is_thing) for entry in found.vocabulary.classes]
    with pytest.raises(DataError, match='no held_out synonyms of: brick wall'):
        found.words('held_out', path)


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        (None, DataError, 'cannot be read'),
        ('sofa: settee', DataError, "sofa must be a mapping of training and held_out, got 'settee'"),
        ('{sofa: {training: [a]}, wall: {training: [a]}, brick wall: {training: [c]}}', VocabularyError, 'two classes'),
    ],
)
def test_synonyms_that_cannot_be_used(tmp_path, text, error, message):
    path = tmp_path / 'synonyms.yaml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=message):
        mapped('sofa, couch; wall; brick wall').words('training', path)


def test_categories_are_found_by_either_name():
    found = mapped('sofa, couch; brick wall; wall')
    assert found.numbered(['SOFA', 'wall-brick'], 'x') == {1, 3}
    assert found.numbered(['couch'], 'x') == {1}
    with pytest.raises(DataError, match='x names categories that the data set does not have: cat, dog'):
        found.numbered(['cat', 'couch', 'dog'], 'x')

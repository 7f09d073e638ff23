import re

import pytest

from fisa_ros.core.errors import VocabularyError
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest

QUARANTINE_S = 60.0


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(clock):
    return VocabularyRegistry(max_id=4, quarantine_s=QUARANTINE_S, clock=clock, stuff_words=('Grass', 'sky'))


def use(registry, *classes, **options):
    vocabulary = registry.propose(VocabularyRequest(classes, **options))
    registry.commit(vocabulary)
    return vocabulary


def ids(vocabulary):
    return {entry.name: entry.id for entry in vocabulary.classes}


def test_first_vocabulary(registry):
    vocabulary = use(registry, 'sofa, couch', 'cat', 'grass, lawn')
    assert vocabulary.version == 1
    assert vocabulary.class_ids == (1, 2, 3)
    assert [entry.name for entry in vocabulary.classes] == ['sofa', 'cat', 'grass']
    assert [entry.text for entry in vocabulary.classes] == ['sofa, couch', 'cat', 'grass, lawn']
    assert [entry.is_thing for entry in vocabulary.classes] == [True, True, False]
    assert registry.current is vocabulary


def test_a_proposal_changes_nothing(registry):
    registry.propose(VocabularyRequest(('cat', 'dog')))
    assert registry.current is None
    assert ids(registry.propose(VocabularyRequest(('cow',)))) == {'cow': 1}


@pytest.mark.parametrize(
    ('classes', 'options', 'version'),
    [
        (('sofa, couch', 'cat'), {}, 1),
        (('cat', 'sofa, couch'), {}, 1),
        (('sofa, couch', 'cat'), {'class_ids': (1, 2)}, 1),
        (('SOFA, couch', 'cat'), {}, 2),
        (('sofa', 'cat'), {}, 2),
        (('sofa, couch, settee', 'cat'), {}, 2),
        (('sofa, couch', 'cat'), {'stuff_classes': ('cat',)}, 2),
        (('sofa, couch',), {}, 2),
        (('sofa, couch', 'cat', 'dog'), {}, 2),
    ],
)
def test_the_version_grows_on_a_real_change_only(registry, classes, options, version):
    use(registry, 'sofa, couch', 'cat')
    assert use(registry, *classes, **options).version == version


def test_ids_follow_the_order_of_the_request(registry):
    use(registry, 'cat', 'dog')
    assert use(registry, 'dog', 'cat').class_ids == (2, 1)


def test_the_order_of_synonyms_is_no_change(registry):
    use(registry, 'sofa, couch, settee')
    assert use(registry, 'sofa, settee, couch').version == 1


def test_a_removed_name_keeps_its_id(registry, clock):
    use(registry, 'cat', 'dog')
    use(registry, 'cow')
    clock.now_s += 10 * QUARANTINE_S
    assert ids(use(registry, 'sheep', 'Dog')) == {'sheep': 4, 'Dog': 2}


def test_the_longest_retired_id_is_reused(registry, clock):
    use(registry, 'a', 'b', 'c', 'd')
    use(registry, 'a', 'b', 'd')
    clock.now_s += 1
    use(registry, 'b', 'd')
    clock.now_s += QUARANTINE_S
    assert ids(use(registry, 'b', 'd', 'e')) == {'b': 2, 'd': 4, 'e': 3}
    assert ids(use(registry, 'b', 'd', 'e', 'f')) == {'b': 2, 'd': 4, 'e': 3, 'f': 1}


def test_of_ids_retired_at_once_the_lowest_is_reused_first(registry, clock):
    use(registry, 'd', 'c', 'b', 'a', class_ids=(4, 3, 2, 1))
    use(registry, 'd')
    clock.now_s += QUARANTINE_S
    assert ids(use(registry, 'e', 'f')) == {'e': 1, 'f': 2}


def test_an_id_rests_before_reuse(registry, clock):
    use(registry, 'a', 'b', 'c', 'd')
    use(registry, 'a', 'b', 'c')
    clock.now_s += QUARANTINE_S - 1
    with pytest.raises(VocabularyError, match=r'no id is free.*next one is free in 1\.0 s.*mask_encoding: mono16'):
        registry.propose(VocabularyRequest(('a', 'e')))
    clock.now_s += 1
    assert ids(use(registry, 'a', 'e')) == {'a': 1, 'e': 4}


def test_a_name_that_returns_rests_anew(registry, clock):
    use(registry, 'a', 'b', 'c', 'd')
    use(registry, 'a')
    clock.now_s += QUARANTINE_S
    use(registry, 'a', 'b')
    use(registry, 'a')
    assert ids(use(registry, 'e', 'f')) == {'e': 3, 'f': 4}
    with pytest.raises(VocabularyError, match='no id is free'):
        registry.propose(VocabularyRequest(('e', 'f', 'g')))


def test_a_returning_name_is_not_robbed_by_a_new_one(registry, clock):
    use(registry, 'a', 'b', 'c', 'd')
    use(registry, 'd')
    clock.now_s += QUARANTINE_S
    assert ids(use(registry, 'e', 'a', 'd')) == {'e': 2, 'a': 1, 'd': 4}


def test_a_name_whose_id_was_reused_gets_another(registry, clock):
    use(registry, 'a', 'b', 'c', 'd')
    use(registry, 'b', 'c', 'd')
    clock.now_s += QUARANTINE_S
    use(registry, 'e', 'b', 'c')
    clock.now_s += QUARANTINE_S
    assert ids(use(registry, 'a', 'e')) == {'a': 4, 'e': 1}


def test_pinned_ids(registry):
    vocabulary = use(registry, 'cat', 'dog', 'cow', class_ids=(3, None, 1))
    assert vocabulary.class_ids == (3, 2, 1)
    assert use(registry, 'cat', 'sheep', class_ids=(3, None)).class_ids == (3, 4)


def test_a_pin_takes_a_rested_id(registry, clock):
    use(registry, 'cat', 'dog')
    use(registry, 'dog')
    clock.now_s += QUARANTINE_S
    assert ids(use(registry, 'dog', 'cow', class_ids=(2, 1))) == {'dog': 2, 'cow': 1}
    assert ids(use(registry, 'cat')) == {'cat': 3}


@pytest.mark.parametrize(
    ('classes', 'class_ids', 'message'),
    [
        (('cow',), (5,), "id 5 of class 'cow' is not in 1..4"),
        (('cow',), (0,), "id 0 of class 'cow' is not in 1..4"),
        (('cow',), (-1,), "id -1 of class 'cow' is not in 1..4"),
        (('cow', 'hen'), (4, 4), "id 4 is given to both 'cow' and 'hen'"),
        (('cow', 'hen'), (4,), '1 class_ids for 2 classes'),
        (('cow',), (3, 4), '2 class_ids for 1 classes'),
        (('dog',), (3,), "class 'dog' has id 2 already, it cannot get 3"),
        (('DOG',), (3,), "class 'DOG' has id 2 already, it cannot get 3"),
        (('cat',), (4,), "class 'cat' has id 1 already, it cannot get 4"),
        (('cow',), (2,), "id 2 of class 'cow' belongs to 'dog'"),
        (('cow', 'dog'), (2, None), "id 2 of class 'cow' belongs to 'dog'"),
        (('cow',), (1,), "id 1 of class 'cow' belonged to 'cat' until now: it rests for another 60.0 s"),
    ],
)
def test_pins_refused(registry, classes, class_ids, message):
    use(registry, 'cat', 'dog')
    use(registry, 'dog')
    before = registry.current
    with pytest.raises(VocabularyError, match=re.escape(message)):
        registry.propose(VocabularyRequest(classes, class_ids=class_ids))
    assert registry.current is before
    assert ids(registry.propose(VocabularyRequest(('dog', 'new')))) == {'dog': 2, 'new': 3}


def test_a_pin_does_not_take_the_rested_id_of_a_returning_name(registry, clock):
    use(registry, 'cat', 'dog')
    use(registry, 'dog')
    clock.now_s += QUARANTINE_S
    with pytest.raises(VocabularyError, match="id 1 of class 'cow' belongs to 'cat'"):
        registry.propose(VocabularyRequest(('cow', 'cat'), class_ids=(1, None)))


@pytest.mark.parametrize(
    ('classes', 'options', 'message'),
    [
        ((), {}, 'the vocabulary is empty: give at least one class'),
        (('cat', ''), {}, "empty name in class ''"),
        (('cat', 'Cat'), {}, "name 'Cat' occurs in two classes, 'cat' and 'Cat'"),
        (('cat', 'dog, cat'), {}, "name 'cat' occurs in two classes, 'cat' and 'dog, cat'"),
        (('a', 'b', 'c', 'd', 'e'), {}, '5 classes, but masks have ids for 4; set `mask_encoding: mono16`'),
        (('cat',), {'stuff_classes': ('dog',)}, "stuff_classes has 'dog', which names no class"),
        (('cat',), {'stuff_classes': ('cat, dog',)}, "stuff_classes has 'cat, dog', which names no class"),
        (('cat',), {'stuff_classes': ('',)}, 'empty name'),
        (('cat',), {'thing_classes': ('dog',)}, "thing_classes has 'dog', which names no class"),
        (
            ('cat',),
            {'stuff_classes': ('cat',), 'thing_classes': ('cat',)},
            "class 'cat' is said to be both stuff and a thing",
        ),
    ],
)
def test_requests_refused(registry, classes, options, message):
    with pytest.raises(VocabularyError, match=re.escape(message)):
        registry.propose(VocabularyRequest(classes, **options))
    assert registry.current is None


@pytest.mark.parametrize(
    ('classes', 'options', 'is_thing'),
    [
        (('cat', 'GRASS', 'sky'), {}, [True, False, False]),
        (('turf, grass',), {}, [True]),
        (('sofa, couch', 'cat'), {'stuff_classes': ('couch',)}, [False, True]),
        (('sofa, couch', 'cat'), {'stuff_classes': ('Sofa, couch', 'sofa')}, [False, True]),
        (('cat', 'grass'), {'thing_classes': ('grass',)}, [True, True]),
    ],
)
def test_stuff_and_things(registry, classes, options, is_thing):
    assert [entry.is_thing for entry in use(registry, *classes, **options).classes] == is_thing


def test_the_shipped_list_of_stuff_words():
    vocabulary = use(VocabularyRegistry(), 'Sky', 'road', 'chair', 'lawn', 'person', 'parking lot')
    assert [entry.is_thing for entry in vocabulary.classes] == [False, False, True, False, True, False]


def test_mono16_has_room():
    registry = VocabularyRegistry(max_id=65535, stuff_words=())
    vocabulary = use(registry, *(f'word {number}' for number in range(300)))
    assert vocabulary.class_ids == tuple(range(1, 301))


def test_no_advice_where_mono16_is_in_use():
    registry = VocabularyRegistry(max_id=65535, stuff_words=())
    with pytest.raises(VocabularyError, match=r'65536 classes, but masks have ids for 65535$'):
        registry.propose(VocabularyRequest(tuple(f'w{number}' for number in range(65536))))


def test_an_outdated_proposal_is_not_committed(registry):
    first = registry.propose(VocabularyRequest(('cat',)))
    second = registry.propose(VocabularyRequest(('dog',)))
    registry.commit(first)
    with pytest.raises(ValueError, match='version 1 does not follow version 1'):
        registry.commit(second)
    assert registry.current is first


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'max_id': 0}, 'max_id must be in 1..65535, got 0'),
        ({'max_id': 65536}, 'max_id must be in 1..65535, got 65536'),
        ({'quarantine_s': -1.0}, 'quarantine_s must be at least 0, got -1.0'),
        ({'quarantine_s': float('nan')}, 'quarantine_s must be at least 0, got nan'),
    ],
)
def test_registry_refuses(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VocabularyRegistry(**options)

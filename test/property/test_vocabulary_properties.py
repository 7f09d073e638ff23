from hypothesis import given
from hypothesis import strategies as st
import pytest

from fisa_ros.core.class_names import MAX_NAME_LENGTH, clean_name, name_key, parse_names
from fisa_ros.core.errors import VocabularyError
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest

MAX_ID = 5
QUARANTINE_S = 10.0

WORDS = st.sampled_from(['a', 'A', 'b', 'c', 'd', 'e', 'f', 'g', 'h', '', 'ß', 'SS'])
REQUESTS = st.builds(
    VocabularyRequest,
    classes=st.lists(st.lists(WORDS, min_size=1, max_size=2).map(','.join), max_size=6).map(tuple),
    stuff_classes=st.lists(WORDS, max_size=1).map(tuple),
    thing_classes=st.lists(WORDS, max_size=1).map(tuple),
    class_ids=st.just(()) | st.lists(st.none() | st.integers(0, 6), max_size=5).map(tuple),
)
STEPS = st.lists(st.tuples(REQUESTS, st.floats(0, 20)), max_size=30)


def snapshot(registry):
    state = vars(registry).copy()
    return {key: value.copy() if isinstance(value, dict) else value for key, value in state.items()}


class World:
    """Plays requests and checks what a consumer of masks relies on."""

    def __init__(self):
        self.now_s = 0.0
        self.registry = VocabularyRegistry(MAX_ID, QUARANTINE_S, clock=lambda: self.now_s, stuff_words=('g',))
        self.last_use: dict[int, tuple[str, float]] = {}
        self.id_of: dict[str, int] = {}

    def step(self, request, pause_s):
        self.now_s += pause_s
        former = self.registry.current
        before = snapshot(self.registry)
        for entry in former.classes if former else ():
            self.last_use[entry.id] = (name_key(entry.name), self.now_s)
        try:
            vocabulary = self.registry.propose(request)
        except VocabularyError:
            assert snapshot(self.registry) == before
            return
        assert snapshot(self.registry) == before
        self.registry.commit(vocabulary)
        self.check(request, former, vocabulary)

    def check(self, request, former, vocabulary):
        assert len(vocabulary.classes) == len(request.classes)
        assert len(set(vocabulary.class_ids)) == len(vocabulary.classes)
        for text, pin, entry in zip(
            request.classes, request.class_ids or [None] * len(request.classes), vocabulary.classes, strict=True
        ):
            key = name_key(entry.name)
            assert entry.names == parse_names(text)
            assert 1 <= entry.id <= MAX_ID
            assert pin in (None, entry.id)
            owner, last_use_s = self.last_use.get(entry.id, (key, 0.0))
            assert owner == key or self.now_s - last_use_s >= QUARANTINE_S
            if self.id_of.get(key, entry.id) != entry.id:
                assert self.last_use[self.id_of[key]][0] != key, 'a name lost an id that nobody else was given'
            self.id_of[key] = entry.id
            self.last_use[entry.id] = (key, self.now_s)
        if former is None:
            assert vocabulary.version == 1
        else:
            assert vocabulary.version - former.version == (not vocabulary.labels_as(former))
        again = VocabularyRequest(
            classes=tuple(entry.text for entry in vocabulary.classes),
            stuff_classes=tuple(entry.name for entry in vocabulary.classes if not entry.is_thing),
            class_ids=vocabulary.class_ids,
            thing_classes=tuple(entry.name for entry in vocabulary.classes if entry.is_thing),
        )
        assert self.registry.propose(again) == vocabulary


@given(STEPS)
def test_ids_are_stable_under_any_sequence_of_requests(steps):
    world = World()
    for request, pause_s in steps:
        world.step(request, pause_s)


@given(st.permutations(['sofa, couch', 'cat', 'grass', 'road']))
def test_permuting_the_classes_permutes_the_ids(classes):
    registry = VocabularyRegistry(stuff_words=('grass', 'road'))
    first = registry.propose(VocabularyRequest(('sofa, couch', 'cat', 'grass', 'road')))
    registry.commit(first)
    second = registry.propose(VocabularyRequest(tuple(classes)))
    assert second.version == first.version
    assert set(second.classes) == set(first.classes)
    assert [entry.text for entry in second.classes] == classes


NAMES = st.text(min_size=1, max_size=20)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=5))
def test_what_is_accepted_can_be_printed_and_parsed(classes):
    registry = VocabularyRegistry(stuff_words=())
    try:
        vocabulary = registry.propose(VocabularyRequest(tuple(','.join(names) for names in classes)))
    except VocabularyError:
        return
    printed = '; '.join(entry.text for entry in vocabulary.classes)
    assert registry.propose(VocabularyRequest.parse(printed)) == vocabulary
    assert registry.propose(VocabularyRequest(tuple(entry.text for entry in vocabulary.classes))) == vocabulary


@given(st.text(max_size=MAX_NAME_LENGTH + 5))
def test_clean_names_stay_as_they_are(text):
    try:
        name = clean_name(text)
    except VocabularyError:
        return
    assert clean_name(name) == name
    assert name_key(clean_name(name.upper())) == name_key(clean_name(name.upper().lower()))
    assert 1 <= len(name) <= MAX_NAME_LENGTH
    assert '\n' not in name


@pytest.mark.parametrize('name', ['Straße', 'ΣΊΣΥΦΟΣ', 'ﬁre', 'İstanbul', 'ǆ', 'ͅa'])
@given(st.data())
def test_keys_are_fixed_points(name, data):
    spelled = data.draw(st.sampled_from([name, name.upper(), name.casefold()]))
    assert name_key(name_key(spelled)) == name_key(spelled)

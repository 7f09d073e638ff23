from fisa_ros.core.class_names import name_key, parse_names
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.simulation.categories import CATEGORIES
from fisa_ros.tools.demo_phases import FEW_WORDS, category_ids, demo_phases


def names_of(request):
    return [parse_names(text) for text in request.classes]


def test_phases_are_all_trained_all_unseen_and_a_few():
    trained, unseen, few = (phase.request for phase in demo_phases())
    assert len(trained.classes) == len(unseen.classes) == len(CATEGORIES)
    assert [names[0] for names in names_of(trained)] == [category.name for category in CATEGORIES]
    assert {names[0] for names in names_of(few)} == set(FEW_WORDS)
    assert set(few.classes) < set(trained.classes)


def test_unseen_names_are_really_unseen():
    trained, unseen, _ = (phase.request for phase in demo_phases())
    seen = {name_key(name) for names in names_of(trained) for name in names}
    assert not seen & {name_key(name) for names in names_of(unseen) for name in names}


def test_trained_names_are_those_of_the_shipped_vocabulary():
    registry = VocabularyRegistry()
    shipped = registry.propose(VocabularyRequest.parse('indoor'))
    assert registry.propose(demo_phases()[0].request).labels_as(shipped)


def test_every_phase_is_accepted_and_every_class_has_its_category():
    registry = VocabularyRegistry()
    ids = category_ids()
    kinds = {category.id: category.is_thing for category in CATEGORIES}
    for phase in demo_phases():
        vocabulary = registry.propose(phase.request)
        registry.commit(vocabulary)
        categories = [ids[name_key(entry.name)] for entry in vocabulary.classes]
        assert len(set(categories)) == len(categories)
        for entry, category in zip(vocabulary.classes, categories, strict=True):
            assert {ids[name_key(name)] for name in entry.names} == {category}
            assert entry.is_thing == kinds[category]

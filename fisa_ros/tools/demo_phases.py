"""The vocabularies that the demo uses one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fisa_ros.core.class_names import name_key, parse_names
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.synonyms import read_synonyms, shipped_synonyms
from fisa_ros.simulation.categories import CATEGORIES, CATEGORY_BY_NAME

FEW_WORDS = ('floor', 'wall', 'door', 'chair', 'table', 'couch', 'lamp', 'plant')


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the demo with one vocabulary.

    Attributes:
        name: What is special about it.
        request: Its words.
    """

    name: str
    request: VocabularyRequest


def demo_phases() -> tuple[Phase, ...]:
    """Return all categories by the shipped names, by names that training never used, and a few of them."""
    shipped = VocabularyRequest.parse('indoor')
    synonyms = read_synonyms(shipped_synonyms())
    unseen = {category.name: synonyms[category.name].held_out for category in CATEGORIES}
    names_of = {names[0]: names for names in map(parse_names, shipped.classes)}
    return (
        Phase('names of training', shipped),
        Phase('unseen synonyms', _request(unseen)),
        Phase('few words', _request({name: names_of[name] for name in FEW_WORDS})),
    )


def category_ids() -> dict[str, int]:
    """Return the category of every name that a phase uses, by `name_key`."""
    synonyms = read_synonyms(shipped_synonyms())
    return {
        name_key(name): category.id
        for category in CATEGORIES
        for name in (category.name, *synonyms[category.name].training, *synonyms[category.name].held_out)
    }


def _request(names_of: Mapping[str, Sequence[str]]) -> VocabularyRequest:
    things = tuple(names[0] for name, names in names_of.items() if CATEGORY_BY_NAME[name].is_thing)
    return VocabularyRequest(
        classes=tuple(', '.join(names) for names in names_of.values()),
        stuff_classes=tuple(names[0] for names in names_of.values() if names[0] not in things),
        thing_classes=things,
    )

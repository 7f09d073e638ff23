from collections import Counter
from itertools import product
import re

import numpy as np
import pytest
import yaml

from fisa_ros.core.resources import share_dir
from fisa_ros.core.results import Segment
from fisa_ros.simulation.captions import image_caption, is_plural, object_caption, plural, shipped_words
from fisa_ros.simulation.categories import CATEGORIES, CATEGORY_BY_NAME
from fisa_ros.simulation.materials import color_name

DOCUMENT = yaml.safe_load((share_dir() / 'config/vocabularies/indoor_synonyms.yaml').read_text())
HELD_OUT = [word for entry in DOCUMENT.values() for word in entry['held_out']]
COLORS = sorted({color_name(np.array(rgb)) for rgb in product(np.linspace(0, 1, 12), repeat=3)})
KINDS = ('wooden', 'plastic', 'metal', 'fabric')


def object_captions(category, attributes, count=300):
    return [object_caption(np.random.default_rng(seed), category, attributes, shipped_words()) for seed in range(count)]


def image_captions(contents, count=300):
    segments = [
        Segment(number, CATEGORY_BY_NAME[name].id, name, CATEGORY_BY_NAME[name].is_thing, 1.0, 9, (0, 0, 3, 3))
        for number, (name, _) in enumerate(contents, start=1)
    ]
    attributes = [adjectives for _, adjectives in contents]
    return [image_caption(np.random.default_rng(seed), segments, attributes, shipped_words()) for seed in range(count)]


@pytest.mark.parametrize('category', [category.name for category in CATEGORIES])
def test_captions_hold_a_training_word_and_never_a_held_out_one(category):
    words = [category, *DOCUMENT[category]['training']]
    for kind in ('', *KINDS):
        captions = object_captions(category, ('red', kind) if kind else ('red',))
        captions += image_captions([(category, ('orange', kind) if kind else ())] * 3)
        assert not [caption for caption in captions if any(word in caption for word in HELD_OUT)]
    captions = object_captions(category, ())
    assert all(any(word in caption for word in words) for caption in captions)
    assert all(any(word in caption for caption in captions) for word in words)


def test_about_half_of_the_captions_have_adjectives():
    captions = object_captions('stool', ('blue', 'plastic'), 1000)
    colored = ['blue' in caption for caption in captions]
    of_plastic = ['plastic' in caption for caption in captions]
    assert 0.42 < np.mean(np.logical_or(colored, of_plastic)) < 0.58
    assert np.mean(np.logical_and(colored, np.logical_not(of_plastic))) > 0.05
    assert np.mean(np.logical_and(of_plastic, np.logical_not(colored))) > 0.05
    assert all(
        'blue plastic' in c for c, blue, kind in zip(captions, colored, of_plastic, strict=True) if blue and kind
    )


def test_templates_vary():
    captions = set(object_captions('plant', ()))
    assert {'houseplant', 'a houseplant', 'a photo of a potted plant', 'a close-up of a plant in a pot'} <= captions
    assert {'the floor', 'a photo of the ground'} <= set(object_captions('floor', ()))
    assert not any(' a floor' in caption or ' a ground' in caption for caption in object_captions('floor', ()))


def test_a_noun_that_says_its_material_or_colour_takes_no_other():
    captions = object_captions('fire extinguisher', ('orange', 'metal')) + object_captions(
        'pallet', ('grey', 'plastic')
    )
    captions += object_captions('barrel', ('blue', 'plastic')) + object_captions('box', ('brown', 'fabric'))
    for forbidden in ('orange red', 'plastic wooden', 'plastic steel', 'fabric cardboard', 'wooden wooden'):
        assert not [caption for caption in captions if forbidden in caption]
    assert any('grey wooden pallet' in caption for caption in captions)


def test_every_colour_is_known_to_be_one():
    for color in COLORS:
        captions = object_captions('fire extinguisher', (color,), 100)
        assert not [caption for caption in captions if f'{color} red fire' in caption], color


def test_several_of_a_kind_are_counted():
    captions = image_captions([('book', ('red',)), ('book', ('red',)), ('chair', ('red', 'wooden'))])
    text = ' | '.join(captions)
    assert 'two books' in text
    assert 'two red books' in text
    assert 'two stacks of books' in text
    assert 'two paperbacks' in text
    assert 'several chairs' in ' | '.join(image_captions([('chair', ())] * 5))
    assert 'three seats' in ' | '.join(image_captions([('chair', ())] * 3))


def test_adjectives_of_several_are_true_of_all():
    captions = image_captions([('stool', ('red', 'plastic')), ('stool', ('blue', 'plastic'))])
    assert any('two plastic stools' in caption for caption in captions)
    assert not [caption for caption in captions if 'red' in caption.split() or 'blue' in caption.split()]


def test_lists_read_as_sentences():
    contents = [('floor', ()), ('wall', ()), ('stool', ('orange',)), ('barrel', ()), ('clock', ())]
    captions = image_captions(contents)
    item = r'an? [a-z -]+?'
    listed = re.compile(rf'a room with {item}(, {item})? and {item}')
    rooms = [caption for caption in captions if caption.startswith('a room with') and ' and ' in caption]
    assert len(rooms) > 10
    assert all(listed.fullmatch(caption) for caption in rooms)
    assert not [caption for caption in captions if 'floor' in caption or 'ground' in caption]
    assert any('an orange stool' in caption for caption in captions)
    lengths = Counter(caption.count(',') for caption in captions)
    assert set(lengths) == {0, 1}


def test_a_bare_room_has_captions():
    assert 'an empty room' in image_captions([('floor', ()), ('wall', ())])
    assert 'an empty room' in image_captions([])


@pytest.mark.parametrize(
    ('noun', 'expected'),
    [
        ('chair', 'chairs'),
        ('couch', 'couches'),
        ('box', 'boxes'),
        ('mattress', 'mattresses'),
        ('bookshelf', 'bookshelves'),
        ('display', 'displays'),
        ('chest of drawers', 'chests of drawers'),
        ('plant in a pot', 'plants in a pot'),
        ('photograph on the wall', 'photographs on the wall'),
    ],
)
def test_plurals(noun, expected):
    assert not is_plural(noun)
    assert plural(noun) == expected
    assert is_plural(expected)


def test_words_that_are_plural_already_have_no_article():
    captions = object_captions('curtain', ('red', 'fabric')) + object_captions('bookshelf', ())
    assert any('shelves with books' in caption for caption in captions)
    assert not [caption for caption in captions if re.search(r'\ba( red)?( fabric)? (drapes|shelves)', caption)]

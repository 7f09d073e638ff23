import re

import pytest

from fisa_ros.core.class_names import clean_name, name_key, parse_names
from fisa_ros.core.errors import VocabularyError


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('cat', 'cat'),
        (' \ttraffic   cone\n', 'traffic cone'),
        ('Fußgänger', 'Fußgänger'),
        ('椅子', '椅子'),
        ('cafe\u0301', 'café'),
        ('no-break\u00a0space', 'no-break space'),
        ('می\u200cخواهم', 'می\u200cخواهم'),
        ('cat 🐱', 'cat 🐱'),
        ('747', '747'),
        ('x' * 100, 'x' * 100),
    ],
)
def test_clean_name(text, expected):
    assert clean_name(text) == expected


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "empty name in ''"),
        (' \t', 'empty name'),
        ('x' * 101, 'has 101 characters, at most 100'),
        ('🐱', "'🐱' has no letter or digit"),
        ('👩\u200d💻', 'has no letter or digit'),
        ('--', "'--' has no letter or digit"),
        ('cat\x00', 'control character U+0000'),
        ('cat\x07dog', 'control character U+0007'),
        ('cat\ndog', 'control character U+000A'),
        ('cat\tdog', 'control character U+0009'),
        ('cat\u202edog', 'control character U+202E'),
        ('\ufeffcat', 'control character U+FEFF'),
        ('cat\ud800', 'control character U+D800'),
        ('cat; dog', "'cat; dog' contains a semicolon"),
    ],
)
def test_clean_name_refuses(text, message):
    with pytest.raises(VocabularyError, match=re.escape(message)):
        clean_name(text)


@pytest.mark.parametrize(
    ('one', 'other', 'is_same'),
    [
        ('Cat', 'cAT', True),
        ('STRASSE', 'Straße', True),
        ('café', 'cafe\u0301', True),
        ('cat', 'cats', False),
        ('traffic cone', 'trafficcone', False),
    ],
)
def test_name_key(one, other, is_same):
    assert (name_key(one) == name_key(other)) is is_same


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('cat', ('cat',)),
        ('sofa, couch ,settee', ('sofa', 'couch', 'settee')),
        ('sofa, Couch, couch, SOFA', ('sofa', 'Couch')),
        ('n, a, b, c, d, e, f, g, h', ('n', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')),
    ],
)
def test_parse_names(text, expected):
    assert parse_names(text) == expected


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "empty name in class ''"),
        ('sofa,', "empty name in class 'sofa,'"),
        ('sofa,, couch', "empty name in class 'sofa,, couch'"),
        ('n, a, b, c, d, e, f, g, h, i', "class 'n' has 9 synonyms, at most 8"),
    ],
)
def test_parse_names_refuses(text, message):
    with pytest.raises(VocabularyError, match=re.escape(message)):
        parse_names(text)

import re

import pytest

from fisa_ros.core.errors import VocabularyError
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_file import shipped_stuff_words


@pytest.mark.parametrize(
    ('text', 'classes'),
    [
        ('cat; dog; grass, lawn', ('cat', 'dog', 'grass, lawn')),
        ('cat', ('cat',)),
        ('cat, kitten', ('cat, kitten',)),
        (' cat ;\n dog; ', ('cat', 'dog')),
        ('cat;;dog', ('cat', '', 'dog')),
    ],
)
def test_parse_one_string(text, classes):
    assert VocabularyRequest.parse(text) == VocabularyRequest(classes)


def test_parse_a_file(tmp_path):
    path = tmp_path / 'home.yaml'
    path.write_text(
        'description: A home.\n'
        'classes:\n'
        '  - sofa, couch\n'
        '  - {name: rug, synonyms: [carpet, mat], stuff: true, id: 7}\n'
        '  - {name: water, stuff: false}\n'
    )
    assert VocabularyRequest.parse(str(path)) == VocabularyRequest(
        classes=('sofa, couch', 'rug, carpet, mat', 'water'),
        stuff_classes=('rug, carpet, mat',),
        class_ids=(None, 7, None),
        thing_classes=('water',),
    )


def test_parse_a_file_without_ids(tmp_path):
    path = tmp_path / 'home.yml'
    path.write_text('classes: [cat, dog]')
    assert VocabularyRequest.parse(str(path)) == VocabularyRequest(('cat', 'dog'))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('- cat\n- dog', 'is not a vocabulary: it needs a list `classes:`'),
        ('classes: cat', 'is not a vocabulary: it needs a list `classes:`'),
        ('', 'is not a vocabulary'),
        ('classes: [cat', 'cannot be read'),
        ('classes: [cat]\nthreshold: 1', "unknown key 'threshold', known are description, classes"),
        ('classes: [cat, no]', 'class 2: False is neither text nor a mapping'),
        ('classes: [{name: cat, color: red}]', "class 1: unknown key 'color'"),
        ('classes: [{synonyms: [cat]}]', 'class 1: name None is not text'),
        ('classes: [{name: 5}]', 'class 1: name 5 is not text'),
        ('classes: [{name: cat, synonyms: kitten}]', "class 1: `synonyms` must be a list, got 'kitten'"),
        ('classes: [{name: cat, synonyms: [on]}]', 'class 1: name True is not text'),
        ('classes: [{name: cat, stuff: maybe}]', "class 1: `stuff` must be bool, got 'maybe'"),
        ('classes: [{name: cat, id: true}]', 'class 1: `id` must be int, got True'),
        ('classes: [{name: cat, id: 1.5}]', 'class 1: `id` must be int, got 1.5'),
    ],
)
def test_files_refused(tmp_path, content, message):
    path = tmp_path / 'words.yaml'
    path.write_text(content)
    with pytest.raises(VocabularyError, match=re.escape(message)):
        VocabularyRequest.parse(str(path))


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / 'words.yaml'
    path.write_bytes(b'\xff\xfe\x00\x80')
    with pytest.raises(VocabularyError, match='cannot be read'):
        VocabularyRequest.parse(str(path))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'the vocabulary is empty'),
        (' \n', 'the vocabulary is empty'),
        ('/nowhere/words.yaml', 'vocabulary file /nowhere/words.yaml does not exist'),
        ('stuff_words', 'is not a vocabulary'),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(VocabularyError, match=re.escape(message)):
        VocabularyRequest.parse(text)


def test_the_list_of_stuff_words_is_sound():
    words = shipped_stuff_words()
    lines = (share_dir() / 'config' / 'vocabularies' / 'stuff_words.yaml').read_text().splitlines()
    assert len(words) == sum(line.startswith('  - ') for line in lines), 'a word occurs twice'
    assert {'sky', 'road', 'grass', 'wall', 'floor', 'ceiling', 'water'} <= words
    assert not {'chair', 'person', 'car', 'table', 'door'} & words


def test_shipped_vocabularies_can_be_used():
    request = VocabularyRequest.parse('indoor')
    vocabulary = VocabularyRegistry().propose(request)
    assert len(vocabulary.classes) >= 25
    assert {entry.is_thing for entry in vocabulary.classes} == {True, False}

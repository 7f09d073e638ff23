"""set_vocabulary and get_vocabulary: whole or not at all, in order, while images keep coming."""

import pytest
from sensor_msgs.msg import Image

from fisa_ros.srv import SetVocabulary

REFUSED = {
    'no words': ([], {}, 'the vocabulary is empty'),
    'an empty word': (['cat', ' '], {}, 'empty'),
    'an empty synonym': (['cat, , kitten'], {}, 'empty'),
    'emoji': (['cat', '\N{CAT FACE}'], {}, '\N{CAT FACE}'),
    'a control character': (['c\x07at'], {}, 'c'),
    'a long word': (['x' * 101], {}, '100'),
    'too many synonyms': (['a, b, c, d, e, f, g, h, i, j'], {}, '8'),
    'duplicates': (['cat', 'Cat'], {}, 'occurs in two classes'),
    'a synonym twice': (['sofa, couch', 'couch'], {}, 'occurs in two classes'),
    '300 words': ([f'word {number}' for number in range(300)], {}, 'mask_encoding: mono16'),
    'an id out of range': (['cat'], {'class_ids': [255]}, '254'),
    'an id twice': (['cat', 'dog'], {'class_ids': [7, 7]}, '7'),
    'ids that do not fit': (['cat', 'dog'], {'class_ids': [7]}, 'class_ids'),
    'an id of another': (['red'], {'class_ids': [9]}, 'red'),
    'unknown stuff': (['cat'], {'stuff_classes': ['grass']}, "stuff_classes has 'grass', which names no class"),
    'an unknown thing': (['cat'], {'thing_classes': ['grass']}, "thing_classes has 'grass', which names no class"),
    'stuff that is a thing': (
        ['cat', 'sofa, couch'],
        {'stuff_classes': ['sofa'], 'thing_classes': ['cat', 'couch']},
        "class 'sofa' is said to be both stuff and a thing",
    ),
}


@pytest.fixture
def node(client, start_node, colours):
    process = start_node(vocabulary=colours)
    client.spin_until(lambda: client.get_vocabulary().version == 1)
    return process


def test_refused_requests_change_nothing_and_say_why(client, node) -> None:
    before = client.get_vocabulary()
    for name, (classes, fields, text) in REFUSED.items():
        answer = client.set_vocabulary(*classes, **fields)
        assert not answer.success, name
        assert text in answer.message, name
        assert (answer.version, list(answer.class_ids)) == (1, []), name
        assert answer.message in node.log
    assert client.get_vocabulary() == before
    assert client.set_vocabulary('yellow').class_ids[0] == 4, 'a refused request used up an id'


def test_an_accepted_request_is_answered_with_version_and_ids(client, node) -> None:
    answer = client.set_vocabulary('sofa, couch', 'blue', 'lawn, grass', stuff_classes=['lawn'])
    assert (answer.success, answer.version, list(answer.class_ids)) == (True, 2, [4, 3, 5])
    assert '3 classes' in answer.message
    assert answer.encode_ms >= 0
    current = client.get_vocabulary()
    assert (current.version, list(current.class_ids)) == (2, [4, 3, 5])
    assert current.classes == ['sofa, couch', 'blue', 'lawn, grass']
    assert current.stuff_classes == ['lawn']

    again = client.set_vocabulary(*current.classes, stuff_classes=current.stuff_classes)
    assert (again.success, again.version, again.message) == (True, 2, 'nothing changed')
    assert client.set_vocabulary('red', 'Blue').class_ids.tolist() == [1, 3], 'the ids are not stable'


def test_what_the_node_says_of_its_vocabulary_makes_it_again(client, start_node, tmp_path) -> None:
    words = tmp_path / 'words.yaml'
    words.write_text(
        'classes: [{name: water, synonyms: [puddle], stuff: false}, {name: crate, stuff: true, id: 9}, grass, red]'
    )
    start_node(vocabulary=str(words))
    client.spin_until(lambda: client.get_vocabulary().version == 1)
    said = client.get_vocabulary()
    assert (said.classes, list(said.class_ids)) == (['water, puddle', 'crate', 'grass', 'red'], [1, 9, 2, 3])
    assert (said.stuff_classes, said.thing_classes) == (['crate', 'grass'], ['water', 'red'])
    fields = {name: getattr(said, name) for name in ('stuff_classes', 'class_ids', 'thing_classes')}
    again = client.set_vocabulary(*said.classes, **fields)
    assert (again.success, again.version, again.message) == (True, 1, 'nothing changed')
    assert client.get_vocabulary() == said

    # By its name alone the first one is stuff, which is another vocabulary.
    assert client.set_vocabulary(*said.classes, stuff_classes=['crate']).version == 2
    assert client.get_vocabulary().stuff_classes == ['water', 'crate', 'grass']
    assert client.set_vocabulary(*said.classes, **fields).version == 3
    assert client.get_vocabulary().thing_classes == said.thing_classes


def test_300_words_fit_into_mono16(client, start_node, colours) -> None:
    start_node(vocabulary=colours, mask_encoding='mono16')
    answer = client.set_vocabulary(*(f'word {number}' for number in range(300)))
    assert (answer.success, len(set(answer.class_ids))) == (True, 300)


def test_more_words_than_the_engines_take_are_refused_and_change_nothing(client, start_node, colours) -> None:
    node = start_node('--max-classes', '4', vocabulary=colours)
    client.spin_until(lambda: client.get_vocabulary().version == 1)
    before = client.get_vocabulary()
    answer = client.set_vocabulary(*(f'word {number}' for number in range(5)))
    assert (answer.success, answer.version, list(answer.class_ids)) == (False, 1, [])
    assert 'has 5 classes, the back-end takes at most 4' in answer.message
    assert client.get_vocabulary() == before
    answer = client.set_vocabulary(*(f'word {number}' for number in range(4)))
    assert (answer.success, answer.version, list(answer.class_ids)) == (True, 2, [4, 5, 6, 7])
    assert node.log.count('vocabulary refused') == 1


def test_images_keep_flowing_while_words_are_encoded_and_requests_are_served_in_order(
    client, start_node, colours
) -> None:
    start_node('--encode-s', '1.0', vocabulary=colours)
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    client.publish_until(lambda: masks)
    requests = [['first', 'red'], ['second', 'red'], [], ['third', 'red']]
    answers = [client.start_call('set_vocabulary', SetVocabulary.Request(classes=words)) for words in requests]
    masks.clear()
    client.publish_until(lambda: all(answer.done() for answer in answers))
    assert [answer.result().success for answer in answers] == [True, True, False, True]
    assert [answer.result().version for answer in answers] == [2, 3, 3, 4]
    assert all(answer.result().encode_ms >= 900 for answer in answers if answer.result().success)
    assert len(masks) >= 10, 'images stood still while words were encoded'


def test_a_call_during_configuration_waits_for_its_end(client, start_node, colours, tmp_path) -> None:
    loaded = tmp_path / 'loaded'
    node = start_node('--load-until', str(loaded), vocabulary=colours)
    answer = client.start_call('set_vocabulary', SetVocabulary.Request(classes=['red', 'mauve']))
    client.spin_for(0.5)
    assert not answer.done()
    assert 'active' not in node.log
    loaded.touch()
    client.spin_until(answer.done)
    assert (answer.result().success, answer.result().version) == (True, 2)
    assert list(answer.result().class_ids) == [1, 4]


def test_a_call_before_configuration_is_refused(client, start_node, colours) -> None:
    start_node(vocabulary=colours, autostart='false')
    answer = client.set_vocabulary('red')
    assert (answer.success, answer.version) == (False, 0)
    assert 'configure' in answer.message
    assert client.get_vocabulary().version == 0


def test_callers_at_the_same_time_are_all_answered(client, node) -> None:
    calls = [
        client.start_call('set_vocabulary', SetVocabulary.Request(classes=[f'word {number}'])) for number in range(8)
    ]
    client.spin_until(lambda: all(call.done() for call in calls))
    assert sorted(call.result().version for call in calls) == list(range(2, 10))

import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.synonyms import Synonyms, read_synonyms, shipped_synonyms
from fisa_ros.simulation.categories import CATEGORIES


def test_names_keep_their_form_and_order(tmp_path):
    path = tmp_path / 'synonyms.yaml'
    path.write_text('Sofa: {held_out: [loveseat], training: [settee, divan]}\nbed: {training: [cot]}\ncat: {}\n')
    found = read_synonyms(path)
    assert list(found) == ['Sofa', 'bed', 'cat']
    assert found['Sofa'] == Synonyms(training=('settee', 'divan'), held_out=('loveseat',))
    assert found['bed'] == Synonyms(training=('cot',), held_out=())
    assert found['cat'] == Synonyms()


def test_the_shipped_file_has_both_lists_of_every_category():
    found = read_synonyms(shipped_synonyms())
    assert list(found) == [category.name for category in CATEGORIES]
    assert all(words.training and words.held_out for words in found.values())
    assert found['couch'].training[0] == 'sofa'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, r'synonyms .*synonyms\.yaml cannot be read'),
        (b'\xff\xfe\x00', 'cannot be read'),
        (b'sofa: {', 'cannot be read'),
        (b'', 'must map names to their synonyms'),
        (b'[sofa]', 'must map names to their synonyms'),
        (b'on: {training: [a]}', 'True is no text: put it in quotes'),
        (b'{Sofa: {}, sofa: {}}', "'Sofa' and 'sofa' are the same name"),
        (b'sofa: settee', "sofa must be a mapping of training and held_out, got 'settee'"),
        (b'sofa: {heldout: [a]}', 'sofa must be a mapping of training and held_out'),
        (b'sofa: {training: settee}', "sofa: training must be a list of words, got 'settee'"),
        (b'sofa: {held_out: [1]}', r'sofa: held_out must be a list of words, got \[1\]'),
    ],
)
def test_files_with_mistakes_are_refused(tmp_path, text, message):
    path = tmp_path / 'synonyms.yaml'
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_synonyms(path)

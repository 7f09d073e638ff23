from itertools import islice

import numpy as np
import pytest
import yaml

from fisa_ros.core.errors import VocabularyError
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.evaluation.sized_vocabulary import SizedVocabulary, _invent
from fisa_ros.pipeline.segmenter import Segmenter


def classes_of(sized):
    return [(entry.names, entry.is_thing) for entry in sized.vocabulary.classes]


def test_without_numbers_it_is_the_vocabulary():
    sized = SizedVocabulary.make('indoor')
    plain = VocabularyRegistry().propose(VocabularyRequest.parse('indoor'))
    assert sized.vocabulary == plain
    assert (sized.num_names, sized.made_up) == (3, frozenset())


def test_words_are_cut_off_or_made_up():
    assert classes_of(SizedVocabulary.make('sky; cat, pet; dog', 2)) == [(('sky',), False), (('cat', 'pet'), True)]
    sized = SizedVocabulary.make('sky; cat, pet; dog', 1000, 2)
    assert [names[0] for names, _ in classes_of(sized)[:3]] == ['sky', 'cat', 'dog']
    assert all(len(names) == 3 for names, _ in classes_of(sized))
    assert [thing for _, thing in classes_of(sized)] == [False] + [True] * 999
    assert len(sized.made_up) == 3 * 1000 - 4
    assert classes_of(SizedVocabulary.make('sky; cat, pet; dog', None, 0))[1] == (('cat',), True)
    assert SizedVocabulary.make('sky', 5) == SizedVocabulary.make('sky', 5)


def test_no_invented_word_is_a_real_one():
    first = list(islice(_invent(set()), 3))
    assert list(islice(_invent({first[1]}), 2)) == [first[0], first[2]]


@pytest.mark.parametrize(
    ('words', 'synonyms', 'message'),
    [
        (0, None, r'words must be in 1\.\.65535, got 0'),
        (65536, None, r'words must be in 1\.\.65535, got 65536'),
        (None, -1, r'synonyms must be in 0\.\.8, got -1'),
        (None, 9, r'synonyms must be in 0\.\.8, got 9'),
    ],
)
def test_impossible_sizes_are_refused(words, synonyms, message):
    with pytest.raises(VocabularyError, match=message):
        SizedVocabulary.make('cat', words, synonyms)


def test_real_names_are_encoded_and_the_others_are_not(color_backend, color_manifest):
    segmenter = Segmenter(color_backend, color_manifest)
    encoded = []
    encode = color_backend.encode_text
    color_backend.encode_text = lambda sentences: encoded.extend(sentences) or encode(sentences)
    sized = SizedVocabulary.make('red; blue, navy', 4, 1)
    state = sized.prepare(segmenter)
    assert state.text_embeddings.shape == (4, 2, 3)
    assert state.synonym_mask.all()
    np.testing.assert_allclose(np.linalg.norm(state.text_embeddings, axis=-1), 1.0, rtol=1e-5)
    assert {name for name in ('red', 'blue', 'navy') if any(name in text for text in encoded)} == {
        'red',
        'blue',
        'navy',
    }
    assert not [text for text in encoded if any(name in text for name in sized.made_up)]
    red = segmenter.prepare(VocabularyRegistry().propose(VocabularyRequest.parse('red'))).text_embeddings
    np.testing.assert_array_equal(state.text_embeddings[0, 0], red[0, 0])
    assert len(np.unique(state.text_embeddings.reshape(-1, 3), axis=0)) == 8


def test_it_can_be_written_to_a_file(tmp_path):
    sized = SizedVocabulary.make('indoor', 40, 3)
    path = tmp_path / 'words.yaml'
    path.write_text(yaml.safe_dump(sized.document()))
    assert VocabularyRegistry().propose(VocabularyRequest.parse(str(path))) == sized.vocabulary

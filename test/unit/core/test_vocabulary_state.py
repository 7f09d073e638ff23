import numpy as np
import pytest

from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass
from fisa_ros.core.vocabulary_state import build_state, choose_semantic_tokens, unit_rows

EMBEDDINGS = {
    'sofa': np.array([1, 0], np.float32),
    'couch': np.array([0, 1], np.float32),
    'grass': np.array([-1, 0], np.float32),
}
VOCABULARY = Vocabulary(3, (VocabularyClass(1, ('sofa', 'couch'), True), VocabularyClass(2, ('grass',), False)))


def random_rows(count, dim=16, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def test_state_while_the_classes_fit():
    state = build_state(VOCABULARY, EMBEDDINGS, 3)
    assert state.vocabulary is VOCABULARY
    assert state.text_embeddings.tolist() == [[[1, 0], [0, 1]], [[-1, 0], [0, 0]]]
    assert state.synonym_mask.tolist() == [[True, True], [True, False]]
    np.testing.assert_allclose(state.semantic_tokens, [[0.5**0.5, 0.5**0.5], [-1, 0], [0, 0]], atol=1e-6)
    assert state.token_mask.tolist() == [True, True, False]
    assert state.is_thing.tolist() == [True, False]
    assert (state.text_embeddings.dtype, state.semantic_tokens.dtype) == (np.float32, np.float32)


def test_state_with_more_classes_than_tokens():
    rows = random_rows(40)
    vocabulary = Vocabulary(1, tuple(VocabularyClass(i + 1, (f'w{i}',), True) for i in range(40)))
    state = build_state(vocabulary, {f'w{i}': row for i, row in enumerate(rows)}, 8)
    assert state.semantic_tokens.shape == (8, 16)
    assert state.token_mask.all()
    np.testing.assert_allclose(np.linalg.norm(state.semantic_tokens, axis=1), 1, atol=1e-5)


def test_opposite_synonyms_give_a_token_without_direction_but_no_nan():
    embeddings = {'a': np.array([1, 0], np.float32), 'b': np.array([-1, 0], np.float32)}
    state = build_state(Vocabulary(1, (VocabularyClass(1, ('a', 'b'), True),)), embeddings, 2)
    assert state.semantic_tokens.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize('count', [1, 7, 8])
def test_tokens_are_the_classes_while_they_fit(count):
    rows = random_rows(count)
    assert choose_semantic_tokens(rows, 8) is rows


@pytest.mark.parametrize('count', [9, 33, 1000])
def test_tokens_do_not_depend_on_the_order(count):
    rows = random_rows(count)
    tokens = choose_semantic_tokens(rows, 8)
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(rows)
        np.testing.assert_array_equal(choose_semantic_tokens(shuffled, 8), tokens)


def test_tokens_with_ties():
    rows = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    tokens = choose_semantic_tokens(rows, 8)
    np.testing.assert_array_equal(choose_semantic_tokens(rows[::-1], 8), tokens)
    assert {tuple(token) for token in tokens} == {tuple(row) for row in np.eye(4)}


def test_every_group_of_classes_has_its_token():
    centres = np.eye(8, 32, dtype=np.float32)
    rows = unit_rows(np.repeat(centres, 20, axis=0) + 0.05 * random_rows(160, 32))
    tokens = choose_semantic_tokens(rows, 8)
    assert (tokens @ centres.T).max(axis=0).min() > 0.99


def test_unit_rows_of_zeros_stay_zeros():
    assert unit_rows(np.zeros((2, 3), np.float32)).tolist() == [[0, 0, 0], [0, 0, 0]]

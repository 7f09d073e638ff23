"""A vocabulary as the networks see it: arrays of text embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.vocabulary import Vocabulary

NUM_SEMANTIC_TOKENS = 32
_REFINEMENTS = 8


@dataclass(frozen=True, slots=True)
class VocabularyState:
    """A vocabulary and its embeddings; never altered, so that a frame can hold on to one.

    Attributes:
        vocabulary: The classes, K of them; row k of each array belongs to `vocabulary.classes[k]`.
        text_embeddings: `(K, S, D)` float32, one unit row per name, padded with zeros.
        synonym_mask: `(K, S)` bool, True where a name is.
        semantic_tokens: `(M, D)` float32, unit rows that stand for the whole vocabulary, padded with zeros.
        token_mask: `(M,)` bool, True where a token is.
        is_thing: `(K,)` bool.
    """

    vocabulary: Vocabulary
    text_embeddings: NDArray[np.float32]
    synonym_mask: NDArray[np.bool_]
    semantic_tokens: NDArray[np.float32]
    token_mask: NDArray[np.bool_]
    is_thing: NDArray[np.bool_]


def build_state(
    vocabulary: Vocabulary, name_embeddings: Mapping[str, NDArray[np.float32]], num_semantic_tokens: int
) -> VocabularyState:
    """Lay out the embeddings of a vocabulary's names.

    Args:
        vocabulary: The classes.
        name_embeddings: `(D,)` float32 of unit length for each name of each class.
        num_semantic_tokens: Number M of semantic tokens.
    """
    classes = vocabulary.classes
    dim = len(name_embeddings[classes[0].name])
    num_names = max(len(entry.names) for entry in classes)
    text_embeddings = np.zeros((len(classes), num_names, dim), np.float32)
    synonym_mask = np.zeros((len(classes), num_names), np.bool_)
    for row, entry in enumerate(classes):
        text_embeddings[row, : len(entry.names)] = [name_embeddings[name] for name in entry.names]
        synonym_mask[row, : len(entry.names)] = True
    tokens = choose_semantic_tokens(unit_rows(text_embeddings.sum(axis=1)), num_semantic_tokens)
    semantic_tokens = np.zeros((num_semantic_tokens, dim), np.float32)
    semantic_tokens[: len(tokens)] = tokens
    return VocabularyState(
        vocabulary=vocabulary,
        text_embeddings=text_embeddings,
        synonym_mask=synonym_mask,
        semantic_tokens=semantic_tokens,
        token_mask=np.arange(num_semantic_tokens) < len(tokens),
        is_thing=np.array([entry.is_thing for entry in classes], np.bool_),
    )


def choose_semantic_tokens(class_embeddings: NDArray[np.float32], max_tokens: int) -> NDArray[np.float32]:
    """Return at most `max_tokens` unit rows that stand for all classes.

    While the classes fit, these are their embeddings in the same order. Otherwise they are the centres of
    `max_tokens` groups of similar classes, and do not depend on the order of the classes.

    Args:
        class_embeddings: `(K, D)` float32 unit rows.
        max_tokens: Number of tokens, at least 1.
    """
    if len(class_embeddings) <= max_tokens:
        return class_embeddings
    # Sums in floating point depend on the order of their terms, ties on the order of the rows.
    order = sorted(range(len(class_embeddings)), key=lambda row: class_embeddings[row].tobytes())
    points = class_embeddings[order]
    centres = points[_spread(points, max_tokens)]
    for _ in range(_REFINEMENTS):
        nearest = (points @ centres.T).argmax(axis=1)
        members = (nearest == np.arange(max_tokens)[:, None]).astype(np.float32)
        centres = np.where(members.any(axis=1, keepdims=True), unit_rows(members @ points), centres)
    return centres


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows `(..., D)` scaled to unit length; rows of zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)


def _spread(points: NDArray[np.float32], count: int) -> list[int]:
    """Return rows chosen one by one, each the farthest from those before it; the first is the most central."""
    chosen = [int((points @ points.mean(axis=0)).argmax())]
    nearest_similarity = points @ points[chosen[0]]
    while len(chosen) < count:
        chosen.append(int(nearest_similarity.argmin()))
        nearest_similarity = np.maximum(nearest_similarity, points @ points[chosen[-1]])
    return chosen

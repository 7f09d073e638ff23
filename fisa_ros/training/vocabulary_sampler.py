"""Random vocabularies for training: a classifier must live with any words, and with words that are not there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from fisa_ros.core.class_names import name_key
from fisa_ros.core.vocabulary_state import choose_semantic_tokens
from fisa_ros.networks.text_encoder import TextEncoder

# Words that are always wrong unless a data set has them, so that a long vocabulary does not confuse.
DISTRACTORS = (
    'cat', 'dog', 'horse', 'car', 'bus', 'bicycle', 'tree', 'river', 'mountain', 'sky', 'road', 'person', 'bird',
    'boat', 'airplane', 'train', 'grass', 'cow', 'sheep', 'elephant', 'pizza', 'banana', 'apple', 'fork', 'knife',
    'spoon', 'laptop', 'phone', 'toilet', 'sink', 'bathtub', 'refrigerator', 'oven', 'scissors', 'toothbrush',
    'umbrella', 'backpack', 'shoe', 'hat', 'guitar', 'piano', 'bridge', 'fence', 'snow', 'sand', 'stairs', 'flag',
    'fountain', 'tent', 'truck',
)  # fmt: skip
_MAX_NAMES = 3
_WHOLE_SHARE = 0.25
_MIN_CLASSES = 5
_MAX_DISTRACTORS = 12


@dataclass(frozen=True)
class SampledVocabulary:
    """A vocabulary for one step.

    Attributes:
        text_embeddings: `(K, S, D)` unit rows, padded.
        synonym_mask: `(K, S)` bool.
        semantic_tokens: `(M, D)` unit rows, padded.
        token_mask: `(M,)` bool.
        category_ids: Category of each of the first rows; the rows after them are distractors.
        tokens_are_classes: Whether semantic token k stands for row k, as while they fit.
        ambiguous_ids: Categories that are not in the vocabulary while a word that may mean them is.
    """

    text_embeddings: Tensor
    synonym_mask: Tensor
    semantic_tokens: Tensor
    token_mask: Tensor
    category_ids: tuple[int, ...]
    tokens_are_classes: bool
    ambiguous_ids: frozenset[int] = frozenset()

    def to(self, device: torch.device) -> 'SampledVocabulary':
        """Return the same vocabulary with its tensors on a device."""
        return replace(
            self,
            text_embeddings=self.text_embeddings.to(device),
            synonym_mask=self.synonym_mask.to(device),
            semantic_tokens=self.semantic_tokens.to(device),
            token_mask=self.token_mask.to(device),
        )

    def rows_of(self, categories: Tensor, void: Sequence[int], ignored: int) -> Tensor:
        """Map category ids of any shape to rows.

        Args:
            categories: int64 ids; ids that are neither here nor in `void` are ignored.
            void: Category ids that are nothing when they are not in the vocabulary; they map to row K, but for
                `ambiguous_ids`.
            ignored: What all other ids map to.
        """
        nothing = [category for category in void if category not in self.ambiguous_ids]
        table = torch.full((int(categories.max().clamp(min=0)) + 1,), ignored, device=categories.device)
        for ids, rows in (
            (nothing, [len(self.text_embeddings)] * len(nothing)),
            (self.category_ids, range(len(self.category_ids))),
        ):
            for category, row in zip(ids, rows, strict=True):
                if category < len(table):
                    table[category] = row
        return torch.where(categories < 0, ignored, table[categories.clamp(min=0)])


class _Meanings:
    """Finds the categories that a word may mean.

    It does if it equals one of their words or either ends in the other: a "brick wall" is a wall, and who labels a
    "wall" may well mean one of bricks. That a "hot dog" is no dog is not seen.
    """

    def __init__(self, names: Mapping[int, Sequence[str]]) -> None:
        self._by_name: dict[str, set[int]] = defaultdict(set)
        self._by_ending: dict[str, set[int]] = defaultdict(set)
        for category, words in names.items():
            for word in words:
                self._by_name[_key(word)].add(category)
                for ending in _endings(word):
                    self._by_ending[ending].add(category)

    def of(self, word: str) -> frozenset[int]:
        named = (self._by_name.get(ending, ()) for ending in _endings(word))
        return frozenset(self._by_ending.get(_key(word), ())).union(*named)


def overlapping_categories(names: Mapping[int, Sequence[str]]) -> dict[int, list[frozenset[int]]]:
    """Return, for each name of each category, the other categories that it may mean.

    Args:
        names: The names of each category by its id.
    """
    meanings = _Meanings(names)
    return {category: [meanings.of(word) - {category} for word in words] for category, words in names.items()}


def _key(name: str) -> str:
    return ' '.join(name_key(name).split())


def _endings(name: str) -> list[str]:
    words = _key(name).split()
    return [' '.join(words[first:]) for first in range(len(words))]


def embed_names(encoder: TextEncoder, templates: Sequence[str], names: Sequence[str]) -> Tensor:
    """Return `(n, D)` unit rows: each name in every template, averaged."""
    sentences = [template.format(name) for name in names for template in templates]
    return F.normalize(encoder.encode(sentences).view(len(names), len(templates), -1).mean(1), dim=-1)


class VocabularySampler:
    """Draws vocabularies from categories, their synonyms and distractors.

    Args:
        encoder: The text encoder.
        templates: Prompt templates.
        num_semantic_tokens: Number M of semantic tokens.
        names: The names of each category by its id, the first one first.
        tuned: The categories that training may name; others occur in `full` only.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        templates: Sequence[str],
        num_semantic_tokens: int,
        names: Mapping[int, Sequence[str]],
        tuned: Sequence[int],
    ) -> None:
        self._names = {category: embed_names(encoder, templates, words) for category, words in names.items()}
        meanings = _Meanings(names)
        # A "cell phone" is a phone, too.
        others = [word for word in DISTRACTORS if not meanings.of(word)]
        self._distractors = embed_names(encoder, templates, others)
        self._num_tokens = num_semantic_tokens
        self._overlapping = overlapping_categories(names)
        self.tuned = tuple(tuned)

    def full(self) -> SampledVocabulary:
        """Return all categories by their first names."""
        return self._assemble([names[:1] for names in self._names.values()], tuple(self._names))

    def draw(self, rng: np.random.Generator) -> SampledVocabulary:
        """Draw a vocabulary of the tuned categories; mostly some are left out and their masks are void.

        Those of categories that a drawn name may mean are not: see `overlapping_categories`.
        """
        count = len(self.tuned)
        kept = count if rng.random() < _WHOLE_SHARE else int(rng.integers(min(_MIN_CLASSES, count), count + 1))
        chosen = tuple(self.tuned[int(index)] for index in rng.permutation(count)[:kept])
        rows = []
        meant: set[int] = set()
        for category in chosen:
            names = self._names[category]
            picked = rng.permutation(len(names))[: int(rng.integers(1, _MAX_NAMES + 1))]
            meant.update(*(self._overlapping[category][int(index)] for index in picked))
            # Unseen words lie near seen ones; noise of about that distance keeps the tower from learning points.
            noise = torch.from_numpy(rng.normal(0, 1, (len(picked), names.shape[1])).astype(np.float32))
            strength = float(rng.uniform(0, 0.5)) / names.shape[1] ** 0.5
            rows.append(F.normalize(names[torch.from_numpy(picked)] + strength * noise, dim=-1))
        extra = rng.permutation(len(self._distractors))[: int(rng.integers(_MAX_DISTRACTORS + 1))]
        rows += [self._distractors[int(index) : int(index) + 1] for index in extra]
        return replace(self._assemble(rows, chosen), ambiguous_ids=frozenset(meant.difference(chosen)))

    def _assemble(self, rows: list[Tensor], chosen: tuple[int, ...]) -> SampledVocabulary:
        dim = rows[0].shape[1]
        embeddings = torch.zeros(len(rows), max(len(row) for row in rows), dim)
        for position, row in enumerate(rows):
            embeddings[position, : len(row)] = row
        means = F.normalize(embeddings.sum(1), dim=-1).numpy()
        tokens = choose_semantic_tokens(means, self._num_tokens)
        semantic_tokens = torch.zeros(self._num_tokens, dim)
        semantic_tokens[: len(tokens)] = torch.from_numpy(tokens)
        return SampledVocabulary(
            text_embeddings=embeddings,
            synonym_mask=embeddings.abs().sum(-1) > 0,
            semantic_tokens=semantic_tokens,
            token_mask=torch.arange(self._num_tokens) < len(tokens),
            category_ids=chosen,
            tokens_are_classes=len(rows) <= self._num_tokens,
        )

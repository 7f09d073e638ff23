"""Runs a model's torch modules directly."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS, VocabularyState
from fisa_ros.networks.conv_stem import fold_batch_norms
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.networks.panoptic_head import PanopticOutput, ThresholdTensors, merge
from fisa_ros.runtime.backend import ProposedMasks, RawSegmentation, StageClock, sure_mask_logits
from fisa_ros.runtime.frame_runner import FrameRunner
from fisa_ros.runtime.torch_cuda import gpu_memory_errors, open_on_gpu


class TorchBackend:
    """The reference back-end: float32 on a CPU; on a GPU `segment` is in half precision where that is as good.

    Args:
        manifest: The model.
        device: A torch device.
        threads: Threads of an operator on a CPU, for the whole process from each image on; by default they are left
            as they are.
        precision: "auto", or "fp32" to leave half precision out on a GPU.

    Attributes:
        precision: That of the encoder in `segment`: "fp32", "fp16" or "fp16-safe". All else is float32.

    Raises:
        ManifestError: The manifest names something that cannot be built.
        WeightsError: Weights are missing, corrupt or do not fit.
        GpuMemoryError: The GPU has too little memory; all methods raise it.
    """

    name = 'torch'
    num_semantic_tokens = NUM_SEMANTIC_TOKENS
    max_classes = None

    @gpu_memory_errors()
    def __init__(
        self, manifest: ModelManifest, device: str, threads: int | None = None, precision: str = 'auto'
    ) -> None:
        self.device = device
        self._threads = threads
        self.image_size_hw = manifest.image_size_hw
        self._network = load_network(manifest)
        fold_batch_norms(self._network.eval())
        self._network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._text_encoder = load_text_encoder(manifest).to(device)
        self.embedding_dim = self._text_encoder.dim
        self.precision = 'fp32'
        self._runner: FrameRunner | None = None
        if device != 'cpu':
            self.precision, self._runner = open_on_gpu(self._network, manifest, device, precision)

    @property
    def threads(self) -> int:
        """Threads of an operator on a CPU."""
        return self._threads or torch.get_num_threads()

    @property
    def temperature(self) -> float:
        """See `MaskClassifier.temperature`."""
        return self._network.head.temperature

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self._network.head.temperature = temperature

    @property
    def merge_size(self) -> int:
        """Edge (pixels) of the square map in which masks compete; may be set."""
        return self._network.head.merge_size

    @merge_size.setter
    def merge_size(self, merge_size: int) -> None:
        self._network.head.merge_size = merge_size

    @gpu_memory_errors()
    @torch.inference_mode()
    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """See `Backend.segment`."""
        if self._runner is not None:
            return self._runner.segment(image, state, thresholds)
        self._use_threads()
        output = self._network(
            self._pixels(image),
            *self._tensors(state.semantic_tokens, state.token_mask),
            *self._tensors(state.text_embeddings, state.synonym_mask, state.is_thing),
            self._thresholds(thresholds),
        )
        return _raw(output)

    @gpu_memory_errors()
    @torch.inference_mode()
    def segment_timed(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
    ) -> tuple[RawSegmentation, Mapping[str, float]]:
        """See `TimedBackend.segment_timed`; nothing has to be moved on a CPU."""
        if self._runner is not None:
            return self._runner.segment_timed(image, state, thresholds)
        self._use_threads()
        clock = StageClock()
        encoded = self._network.encode(self._pixels(image), *self._tensors(state.semantic_tokens, state.token_mask))
        clock.end('encoder')
        words = self._tensors(state.text_embeddings, state.synonym_mask, state.is_thing)
        output = self._network.head(*encoded, *words, self._thresholds(thresholds))
        clock.end('head')
        raw = _raw(output)
        clock.end('download')
        return raw, {'upload': 0.0, **clock.stages_ms}

    @torch.inference_mode()
    def propose_masks(self, image: NDArray[np.uint8]) -> ProposedMasks:
        """See `MaskClassifier.propose_masks`."""
        proposals = self._network.generator(self._pixels(image))
        return ProposedMasks(_array(proposals.mask_logits[0]), _array(proposals.objectness[0]))

    @gpu_memory_errors()
    @torch.inference_mode()
    def embed_masks(
        self, image: NDArray[np.uint8], mask_logits: NDArray[np.float32], state: VocabularyState
    ) -> NDArray[np.float32]:
        """See `MaskClassifier.embed_masks`."""
        embeddings = self._network.tower(
            self._network.at_tower_size(self._pixels(image)),
            self._tensors(mask_logits)[0][None],
            *self._tensors(state.semantic_tokens, state.token_mask),
        )
        return _array(embeddings[0])

    @gpu_memory_errors()
    @torch.inference_mode()
    def class_probabilities(self, mask_embeddings: NDArray[np.float32], state: VocabularyState) -> NDArray[np.float32]:
        """See `MaskClassifier.class_probabilities`."""
        head = self._network.head
        class_logits = head.class_logits(*self._tensors(mask_embeddings, state.text_embeddings, state.synonym_mask))
        return _array((class_logits / head.temperature).softmax(-1))

    def classify_masks(
        self, image: NDArray[np.uint8], masks: NDArray[np.float32], state: VocabularyState
    ) -> NDArray[np.float32]:
        """See `MaskClassifier.classify_masks`."""
        return self.class_probabilities(self.embed_masks(image, sure_mask_logits(masks), state), state)

    @gpu_memory_errors()
    @torch.inference_mode()
    def merge_masks(
        self,
        masks: ProposedMasks,
        mask_embeddings: NDArray[np.float32],
        state: VocabularyState,
        thresholds: Thresholds,
    ) -> RawSegmentation:
        """See `MaskClassifier.merge_masks`."""
        output = self._network.head(
            *self._tensors(masks.mask_logits, mask_embeddings, masks.objectness),
            *self._tensors(state.text_embeddings, state.synonym_mask, state.is_thing),
            self._thresholds(thresholds),
        )
        return _raw(output)

    @gpu_memory_errors()
    @torch.inference_mode()
    def merge_classified(
        self,
        mask_logits: NDArray[np.float32],
        class_index: NDArray[np.int64],
        score: NDArray[np.float32],
        state: VocabularyState,
        thresholds: Thresholds,
    ) -> RawSegmentation:
        """See `MaskClassifier.merge_classified`."""
        logits, index, scores, is_thing = self._tensors(mask_logits, class_index, score, state.is_thing)
        size = (self.merge_size,) * 2
        probability = F.interpolate(logits[None], size, mode='bilinear', align_corners=False)[0].sigmoid()
        return _raw(merge(probability, index, scores, is_thing[index], self._thresholds(thresholds)))

    @gpu_memory_errors()
    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        return self._text_encoder.encode(sentences).numpy()

    def close(self) -> None:
        """Free the networks."""
        del self._network, self._text_encoder, self._runner

    def _pixels(self, image: NDArray[np.uint8]) -> Tensor:
        pixels = self._tensors(image)[0].permute(2, 0, 1)[None].float() / 255
        return pixels.contiguous(memory_format=torch.channels_last)

    def _use_threads(self) -> None:
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def _thresholds(self, thresholds: Thresholds) -> ThresholdTensors:
        return ThresholdTensors.of(*self._tensors(thresholds.array()))

    def _tensors(self, *arrays: NDArray[np.generic]) -> list[Tensor]:
        return [torch.from_numpy(array).to(self.device) for array in arrays]


def _raw(output: PanopticOutput) -> RawSegmentation:
    return RawSegmentation(output.query_map.cpu().numpy(), output.class_index.cpu().numpy(), _array(output.score))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array

"""Exports a model to three ONNX graphs: text, encoder and head."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import importlib.metadata
import logging
from pathlib import Path
import tempfile
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor, nn
from torch.export import Dim

from fisa_ros.core.errors import GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS, VocabularyState
from fisa_ros.networks.conv_stem import fold_batch_norms
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.networks.panoptic_head import PanopticHead, ThresholdTensors
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.graph_quantization import add_int8_encoder
from fisa_ros.runtime.onnx_lint import load_and_lint

OPSET = 20
# What is larger keeps its weights beside it: a file of protobuf ends at 2 GiB, and each step of an export copies it.
_MAX_INLINE_BYTES = 1 << 27
_MAX_SYNONYMS = 8
_MAX_CLASSES = 65535
_LOG = logging.getLogger('fisa_ros.export')


class EncoderGraph(nn.Module):
    """Image to masks and their embeddings; normalisation, generator and image tower."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode `(H, W, 3)` uint8 rgb; see `SegmentationNetwork.encode`."""
        # TensorRT takes bytes as an input, and then only to cast them.
        pixels = image.float().permute(2, 0, 1)[None] / 255
        encoded = self.network.encode(pixels, semantic_tokens, token_mask)
        return encoded.mask_logits, encoded.mask_embeddings, encoded.objectness


class HeadGraph(nn.Module):
    """Masks, their embeddings and words to one panoptic map; classifier and merge."""

    def __init__(self, head: PanopticHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self,
        mask_logits: Tensor,
        mask_embeddings: Tensor,
        objectness: Tensor,
        text_embeddings: Tensor,
        synonym_mask: Tensor,
        is_thing: Tensor,
        thresholds: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Segment; `thresholds` are `(4,)` score, mask, overlap, objectness_trust. See `PanopticHead.forward`."""
        output = self.head(
            mask_logits, mask_embeddings, objectness, text_embeddings, synonym_mask, is_thing,
            ThresholdTensors(thresholds[0], thresholds[1], thresholds[2], thresholds[3]),
        )  # fmt: skip
        return output.query_map, output.class_index, output.score


def export_graphs(
    manifest: ModelManifest,
    folder: Path,
    frames: Sequence[NDArray[np.uint8]],
    state: VocabularyState,
) -> graph_files.GraphsDescription:
    """Export a model into `folder`, which is replaced in one step; what was there before stays if anything fails.

    Args:
        manifest: The model.
        folder: Where the graphs go.
        frames: Images `(H, W, 3)` uint8 rgb of the size that the model takes, for the reference outputs.
        state: Vocabulary of the reference outputs.

    Raises:
        WeightsError: The weights are missing or do not fit.
        GraphsError: A graph has something that TensorRT does not take.
    """
    network = load_network(manifest)
    fold_batch_norms(network.eval())
    network.requires_grad_(False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as temporary:
        part = Path(temporary) / 'graphs'
        part.mkdir()
        shapes = _export_network(network, manifest, part)
        is_text_cleaned = _export_text(manifest, part)
        _refuse_what_lint_finds(part)
        write_reference(part / graph_files.REFERENCE_FILE, network, manifest, frames, state)
        add_int8_encoder(part)
        versions = {name: importlib.metadata.version(name) for name in ('torch', 'onnx', 'onnxscript')}
        description = graph_files.GraphsDescription(
            model=manifest.name,
            source=graph_files.source_key(manifest),
            image_size_hw=manifest.image_size_hw,
            num_masks=shapes[0],
            mask_size_hw=(shapes[1], shapes[2]),
            embedding_dim=network.head.void_embedding.shape[0],
            num_semantic_tokens=NUM_SEMANTIC_TOKENS,
            is_text_cleaned=is_text_cleaned,
            made_with=versions,
            files=graph_files.file_sums(part),
        )
        graph_files.write_description(part, description)
        _replace_folder(part, folder)
    return description


def _export_network(network: SegmentationNetwork, manifest: ModelManifest, folder: Path) -> tuple[int, int, int]:
    """Export encoder and head; return `(N, h, w)` of the mask logits."""
    height, width = manifest.image_size_hw
    dim = network.head.void_embedding.shape[0]
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    tokens = torch.nn.functional.normalize(torch.ones(NUM_SEMANTIC_TOKENS, dim), dim=-1)
    used = torch.arange(NUM_SEMANTIC_TOKENS) < NUM_SEMANTIC_TOKENS // 2
    encoder = EncoderGraph(network).eval()
    with torch.inference_mode():
        encoded = encoder(image, tokens, used)
    _export(encoder, (image, tokens, used), folder / graph_files.ENCODER_FILE,
            graph_files.ENCODER_INPUTS, graph_files.ENCODER_OUTPUTS)  # fmt: skip
    # Not 1 and not equal, or the exporter takes them for constants or for one and the same number.
    classes, synonyms = 7, 3
    words = torch.nn.functional.normalize(torch.ones(classes, synonyms, dim), dim=-1)
    there = torch.ones(classes, synonyms, dtype=torch.bool)
    things = torch.ones(classes, dtype=torch.bool)
    thresholds = torch.tensor([0.25, 0.5, 0.5, 0.5])
    class_dim, synonym_dim = Dim('classes', min=1, max=_MAX_CLASSES), Dim('synonyms', min=1, max=_MAX_SYNONYMS)
    pairs, singles = {0: class_dim, 1: synonym_dim}, {0: class_dim}
    _export(HeadGraph(network.head).eval(), (*(entry.clone() for entry in encoded), words, there, things, thresholds),
            folder / graph_files.HEAD_FILE, graph_files.HEAD_INPUTS, graph_files.HEAD_OUTPUTS,
            ({}, {}, {}, pairs, pairs, singles, {}))  # fmt: skip
    masks, rows, columns = encoded[0].shape
    return masks, rows, columns


def _export_text(manifest: ModelManifest, folder: Path) -> bool:
    """Export the text encoder and its tokenizer; return whether sentences are cleaned first."""
    encoder = load_text_encoder(manifest)
    encoder.tokenizer.save(str(folder / graph_files.TOKENIZER_FILE))
    batch, is_padded_to = {0: Dim('sentences', min=1, max=4096)}, (encoder.tokenizer.padding or {}).get('length')
    length = is_padded_to or 9
    ids, mask = torch.ones(3, length, dtype=torch.int64), torch.ones(3, length, dtype=torch.int64)
    sizes = batch if is_padded_to else batch | {1: Dim('tokens', min=2, max=encoder.max_tokens)}
    _export(encoder, (ids, mask), folder / graph_files.TEXT_FILE,
            graph_files.TEXT_INPUTS, graph_files.TEXT_OUTPUTS, (sizes, sizes))  # fmt: skip
    return encoder.is_cleaned


def _export(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[dict[int, Any], ...] | None = None,
) -> None:
    _LOG.info('exporting %s', path.name)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    with _quiet_exporter():
        torch.onnx.export(
            module,
            arguments,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=size > _MAX_INLINE_BYTES,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's remarks on its own renaming of axes."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*axis name.*')
        yield


def _refuse_what_lint_finds(folder: Path) -> None:
    problems = [
        f'{name}: {problem}'
        for name in (graph_files.ENCODER_FILE, graph_files.HEAD_FILE)
        for problem in load_and_lint(folder / name)
    ]
    if problems:
        raise GraphsError('the exported graphs do not fit TensorRT: ' + '; '.join(problems))


def write_reference(
    path: Path,
    network: SegmentationNetwork,
    manifest: ModelManifest,
    frames: Sequence[NDArray[np.uint8]],
    state: VocabularyState,
) -> None:
    """Write inputs and float32 outputs of both graphs as PyTorch computes them, for later comparison."""
    encoder, head = EncoderGraph(network).eval(), HeadGraph(network.head).eval()
    tokens = torch.from_numpy(state.semantic_tokens), torch.from_numpy(state.token_mask)
    words = [torch.from_numpy(entry) for entry in (state.text_embeddings, state.synonym_mask, state.is_thing)]
    thresholds = torch.from_numpy(manifest.thresholds.array())
    outputs: dict[str, list[NDArray[Any]]] = {
        name: [] for name in (*graph_files.ENCODER_OUTPUTS, *graph_files.HEAD_OUTPUTS)
    }
    with torch.inference_mode():
        for frame in frames:
            encoded = encoder(torch.from_numpy(frame), *tokens)
            segmented = head(*encoded, *words, thresholds)
            for name, tensor in zip(outputs, (*encoded, *segmented), strict=True):
                outputs[name].append(tensor.numpy())
    np.savez_compressed(
        path,
        allow_pickle=False,
        image=np.stack(frames),
        semantic_tokens=state.semantic_tokens,
        token_mask=state.token_mask,
        text_embeddings=state.text_embeddings,
        synonym_mask=state.synonym_mask,
        is_thing=state.is_thing,
        thresholds=thresholds.numpy(),
        **{name: np.stack(values) for name, values in outputs.items()},
    )


def _replace_folder(part: Path, folder: Path) -> None:
    if folder.exists():
        # Renaming over a folder that is not empty is not possible; the gap between these two lines is one rename.
        folder.rename(part.parent / 'old')
    part.rename(folder)

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

from fisa_ros.core.class_names import MAX_NAMES
from fisa_ros.core.errors import GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS, VocabularyState
from fisa_ros.networks.conv_stem import fold_batch_norms
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.graph_modules import Encoder, EncoderGraph, HeadGraph
from fisa_ros.runtime.graph_precision import half_weight_share
from fisa_ros.runtime.graph_quantization import add_int8_encoder
from fisa_ros.runtime.half_precision import HalfNetwork
from fisa_ros.runtime.onnx_lint import load_and_lint

OPSET = 20
# What is larger keeps its weights beside it: a file of protobuf ends at 2 GiB, and each step of an export copies it.
_MAX_INLINE_BYTES = 1 << 27
# TensorRT runs a half graph that is float32 after all without a word, four times slower.
_MIN_HALF_SHARE = 0.8
_MAX_CLASSES = 65535
_LOG = logging.getLogger('fisa_ros.export')


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
        replace_folder(part, folder)
    return description


def _export_network(network: SegmentationNetwork, manifest: ModelManifest, folder: Path) -> tuple[int, int, int]:
    """Export encoder, in each precision, and head; return `(N, h, w)` of the mask logits."""
    height, width = manifest.image_size_hw
    dim = network.head.void_embedding.shape[0]
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    tokens = torch.nn.functional.normalize(torch.ones(NUM_SEMANTIC_TOKENS, dim), dim=-1)
    used = torch.arange(NUM_SEMANTIC_TOKENS) < NUM_SEMANTIC_TOKENS // 2
    with torch.inference_mode():
        encoded = EncoderGraph(network).eval()(image, tokens, used)
    for name, encoder in _encoders(network):
        export_graph(EncoderGraph(encoder).eval(), (image, tokens, used), folder / name,
                     graph_files.ENCODER_INPUTS, graph_files.ENCODER_OUTPUTS)  # fmt: skip
    # Not 1 and not equal, or the exporter takes them for constants or for one and the same number.
    classes, synonyms = 7, 3
    words = torch.nn.functional.normalize(torch.ones(classes, synonyms, dim), dim=-1)
    there = torch.ones(classes, synonyms, dtype=torch.bool)
    things = torch.ones(classes, dtype=torch.bool)
    thresholds = torch.tensor([0.25, 0.5, 0.5, 0.5, 1.0, 0.75])
    class_dim, synonym_dim = Dim('classes', min=1, max=_MAX_CLASSES), Dim('synonyms', min=1, max=MAX_NAMES)
    pairs, singles = {0: class_dim, 1: synonym_dim}, {0: class_dim}
    export_graph(HeadGraph(network.head).eval(),
                 (*(entry.clone() for entry in encoded), words, there, things, thresholds),
                 folder / graph_files.HEAD_FILE, graph_files.HEAD_INPUTS, graph_files.HEAD_OUTPUTS,
                 ({}, {}, {}, pairs, pairs, singles, {}))  # fmt: skip
    masks, rows, columns = encoded[0].shape
    return masks, rows, columns


def _encoders(network: SegmentationNetwork) -> Iterator[tuple[str, Encoder]]:
    yield graph_files.ENCODER_FILE, network
    # One after the other, so that only one copy is in memory.
    yield graph_files.FP16_ENCODER_FILE, HalfNetwork(network)
    yield graph_files.SAFE_FP16_ENCODER_FILE, HalfNetwork(network, is_safe=True)


def _export_text(manifest: ModelManifest, folder: Path) -> bool:
    """Export the text encoder and its tokenizer; return whether sentences are cleaned first."""
    encoder = load_text_encoder(manifest)
    encoder.tokenizer.save(str(folder / graph_files.TOKENIZER_FILE))
    batch, is_padded_to = {0: Dim('sentences', min=1, max=4096)}, (encoder.tokenizer.padding or {}).get('length')
    length = is_padded_to or 9
    ids, mask = torch.ones(3, length, dtype=torch.int64), torch.ones(3, length, dtype=torch.int64)
    sizes = batch if is_padded_to else batch | {1: Dim('tokens', min=2, max=encoder.max_tokens)}
    export_graph(encoder, (ids, mask), folder / graph_files.TEXT_FILE,
                 graph_files.TEXT_INPUTS, graph_files.TEXT_OUTPUTS, (sizes, sizes))  # fmt: skip
    return encoder.is_cleaned


def export_graph(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[dict[int, Any], ...] | None = None,
) -> None:
    """Export one module.

    Args:
        module: In evaluation mode.
        arguments: Examples of its inputs.
        path: The file to write.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        dynamic_shapes: For each input its axes that may vary; None if none does.
    """
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
        for name in (*graph_files.ENCODER_FILES, graph_files.HEAD_FILE)
        for problem in load_and_lint(folder / name)
    ]
    if problems:
        raise GraphsError('the exported graphs do not fit TensorRT: ' + '; '.join(problems))
    for name in (graph_files.FP16_ENCODER_FILE, graph_files.SAFE_FP16_ENCODER_FILE):
        share = half_weight_share(folder / name)
        if share < _MIN_HALF_SHARE:
            raise GraphsError(
                f'{name} is not half: {share:.1%} of its weights are, at least {_MIN_HALF_SHARE:.0%} must be'
            )


def write_reference(
    path: Path,
    network: SegmentationNetwork,
    manifest: ModelManifest,
    frames: Sequence[NDArray[np.uint8]],
    state: VocabularyState,
) -> None:
    """Write inputs and float32 outputs of both graphs as PyTorch computes them, for later comparison.

    Padding, if frames have any, is merged as part of the image, so that it is compared as well.
    """
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


def replace_folder(part: Path, folder: Path) -> None:
    """Put `part` in the place of `folder`, which may exist and ends up beside `part`."""
    if folder.exists():
        # Renaming over a folder that is not empty is not possible; the gap between these two lines is one rename.
        folder.rename(part.parent / 'old')
    part.rename(folder)

"""EoMT with CLIP, as the real sizes have them but small: exported, ONNX Runtime gives what torch gives."""

from dataclasses import replace
import math
import shutil

import cv2
import numpy as np
import onnx
from open_clip.tokenizer import SimpleTokenizer
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
import torch
import torch.nn.functional as F

from fisa_ros.core.clip_text import clean_clip_text
from fisa_ros.core.errors import GraphsError, WeightsError
from fisa_ros.core.manifest import file_sha256, load_manifest
from fisa_ros.core.placement import Resize
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.networks.panoptic_head import ThresholdTensors, merge
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.runtime import graph_export, graph_files
from fisa_ros.runtime.frame_runner import FrameRunner
from fisa_ros.runtime.graph_cost import count_cost
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend
from fisa_ros.runtime.torch_backend import TorchBackend

from .clip_models import SIZE, manifest_without_weights, random_model, register_configs
from .test_frame_runner import HostQueue

# All things, as masks of random embeddings fit the same word and stuff would become one segment.
WORDS = 'chair, seat, stool; table; bed, mattress; lamp; door; cup'
SENTENCES = ['a chair', 'a photo of a fire extinguisher.', 'Stühle &amp; Tische', '消火器', 'word ' * 200]


def frames(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(count)]


@pytest.fixture(scope='module', autouse=True)
def _configs():
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_configs(monkeypatch)
        yield


@pytest.fixture(scope='module', params=['small-vit', 'small-convnext'])
def exported(request, tmp_path_factory):
    """A model, its graphs, and both back-ends; the ViT's weights lie beside its graphs."""
    folder = tmp_path_factory.mktemp(request.param)
    manifest = random_model(folder, request.param)
    torch_backend = TorchBackend(manifest, 'cpu')
    state = Segmenter(torch_backend, manifest).prepare(VocabularyRegistry().propose(VocabularyRequest.parse(WORDS)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == 'small-vit':
            monkeypatch.setattr(graph_export, '_MAX_INLINE_BYTES', 1000)
        graph_export.export_graphs(manifest, folder / 'graphs', frames(1), state)
    backend = OnnxRuntimeBackend(manifest, folder / 'graphs', precision='fp32')
    yield manifest, folder / 'graphs', backend, torch_backend, state
    backend.close()


def test_both_see_the_same_in_a_frame(exported):
    manifest, _, backend, torch_backend, state = exported
    for frame in frames(3):
        ours = backend.segment(frame, state, manifest.thresholds)
        theirs = torch_backend.segment(frame, state, manifest.thresholds)
        np.testing.assert_array_equal(ours.query_map, theirs.query_map)
        np.testing.assert_array_equal(ours.class_index, theirs.class_index)
        np.testing.assert_allclose(ours.score, theirs.score, atol=1e-4)
        assert len(np.unique(theirs.query_map)) > 5, 'random masks that all look alike compare nothing'


def test_text_is_what_torch_makes_of_it(exported):
    manifest, _, backend, torch_backend, _ = exported
    theirs = torch_backend.encode_text(SENTENCES)
    np.testing.assert_allclose(backend.encode_text(SENTENCES), theirs, atol=1e-5)
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-2
    # Built anew, the text encoder has the same weights.
    again = TorchBackend(manifest, 'cpu')
    np.testing.assert_array_equal(again.encode_text(SENTENCES), theirs)
    again.close()


@pytest.mark.parametrize('sentences', [['a chair'], SENTENCES[:3], SENTENCES, ['', 'x' * 300]])
def test_texts_of_any_length_are_what_open_clip_makes_of_padded_ones(exported, sentences):
    _, _, backend, torch_backend, _ = exported
    tower = torch_backend._text_encoder.model
    tokens = SimpleTokenizer()([clean_clip_text(sentence) for sentence in sentences], 77)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(tower(tokens), dim=-1).numpy()
    np.testing.assert_allclose(backend.encode_text(sentences), expected, atol=1e-5)
    np.testing.assert_allclose(torch_backend.encode_text(sentences), expected, atol=1e-5)


def test_short_texts_are_not_padded_to_the_longest_that_there_may_be(exported):
    _, folder, *_ = exported
    tokenizer = Tokenizer.from_file(str(folder / graph_files.TOKENIZER_FILE))
    rows = [len(entry.ids) for entry in tokenizer.encode_batch(['a chair', 'a photo of a chair'])]
    assert rows == [7, 7]
    shape = onnx.load(folder / 'text.onnx', load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    assert [bool(size.dim_param) for size in shape] == [True, True]


def test_words_reach_the_masks_of_fisa_alone(exported):
    manifest, folder, backend, _, state = exported
    reference = np.load(folder / graph_files.REFERENCE_FILE)
    inputs = {'image': reference['image'][0], 'semantic_tokens': state.semantic_tokens, 'token_mask': state.token_mask}
    found = backend._encoder.run(['mask_embeddings'], inputs)[0]
    np.testing.assert_allclose(found, reference['mask_embeddings'][0], atol=1e-4)
    hidden = backend._encoder.run(['mask_embeddings'], inputs | {'token_mask': np.zeros_like(state.token_mask)})[0]
    assert (np.abs(hidden - found).max() > 1e-4) == (manifest.classifier['type'] == 'open_clip')


def test_graphs_are_clean_and_counted(exported):
    manifest, folder, *_ = exported
    encoder = count_cost(folder / 'encoder.onnx')
    few, many = (count_cost(folder / 'head.onnx', {'classes': k, 'synonyms': 2}) for k in (3, 30))
    matrices = (value for name, value in load_file(manifest.weights.path).items() if not name.startswith('text_enc'))
    assert encoder.weight_bytes == pytest.approx(4 * sum(value.numel() for value in matrices), rel=0.05)
    # The pixels of the upscaled features meet every query: the Einsum of EoMT is among what is counted.
    assert encoder.flop > 2 * 12 * 64 * 16 * 16
    assert many.flop == pytest.approx(10 * few.flop, rel=0.3)
    operators = {node.op_type for node in onnx.load(folder / 'encoder.onnx', load_external_data=False).graph.node}
    assert not operators & {'RandomUniform', 'ScatterND', 'IsNaN', 'Resize'}


def test_weights_lie_beside_the_graphs_of_large_models(exported):
    manifest, folder, *_ = exported
    beside = {path.name for path in folder.glob('*.data')}
    assert beside == (
        {f'{name}.data' for name in (*graph_files.ENCODER_FILES, 'text.onnx')}
        if manifest.name == 'small-vit'
        else set()
    )
    assert beside <= set(graph_files.open_graphs(folder, manifest).files)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda path: path.unlink(), r'onnx\.data cannot be read: .*; export anew'),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r'onnx\.data \(\d+ bytes\) is damaged: sha256 is'),
    ],
)
@pytest.mark.parametrize('name', ['encoder.onnx.data', 'text.onnx.data'])
def test_missing_or_truncated_weights_are_named(exported, tmp_path, name, change, message):
    manifest, graphs, *_ = exported
    if not (graphs / name).is_file():
        assert manifest.name == 'small-convnext'
        return
    folder = tmp_path / 'graphs'
    shutil.copytree(graphs, folder)
    change(folder / name)
    with pytest.raises(GraphsError, match=name.split('.')[0] + r'\.' + message):
        OnnxRuntimeBackend(manifest, folder)


def test_weights_of_another_manifest_name_what_does_not_fit(exported, tmp_path):
    manifest = exported[0]
    other = {'small-vit': 'small-convnext', 'small-convnext': 'small-vit'}[manifest.name]
    fit = replace(random_model(tmp_path, other), weights=manifest.weights)
    with pytest.raises(WeightsError, match=r'do not fit the network: missing: tower\.\S+, .* surplus: tower\.'):
        TorchBackend(fit, 'cpu')


def test_a_file_without_the_text_encoder_is_refused(exported, tmp_path):
    manifest = exported[0]
    path = tmp_path / 'w.safetensors'
    tensors = load_file(manifest.weights.path)
    save_file({name: value for name, value in tensors.items() if not name.startswith('text_encoder.')}, path)
    weights = replace(manifest.weights, path=path, sha256=file_sha256(path))
    with pytest.raises(WeightsError, match=r'do not fit the text encoder: missing: text_encoder\.model\.\S+, .* more'):
        TorchBackend(replace(manifest, weights=weights), 'cpu')


def test_random_models_are_of_their_seed(tmp_path):
    manifests = []
    for folder, seed in (('a', 1), ('b', 1), ('c', 2)):
        (tmp_path / folder).mkdir()
        manifests.append(random_model(tmp_path / folder, 'small-vit', seed))
    first, same, other = (manifest.weights.sha256 for manifest in manifests)
    assert first == same != other
    assert manifests[0].thresholds.score == 0.0
    assert manifests[0].argument == str(manifests[0].path)


def test_a_model_without_weights_says_how_to_try_it(tmp_path):
    manifest = manifest_without_weights(tmp_path, 'small-vit')
    text = f"no weights are shipped for model 'small-vit'; .*--model {manifest.path} --random-weights"
    with pytest.raises(WeightsError, match=text):
        TorchBackend(manifest, 'cpu')
    with pytest.raises(GraphsError, match=f"'small-vit' has no exported graphs in .*{text}"):
        OnnxRuntimeBackend(manifest, tmp_path / 'graphs')
    assert load_manifest(manifest.path).weights.sha256 is None


@pytest.mark.parametrize('size_hw', [(32, 64), (78, 128), (64, 31)])
def test_a_padded_image_is_merged_as_if_cut_out_by_hand(exported, size_hw):
    manifest, _, backend, torch_backend, state = exported
    assert manifest.resize == Resize('pad')
    image = np.random.default_rng(2).integers(180, 256, (*size_hw, 3), np.uint8)
    rows, columns = (round(SIZE * side / max(size_hw)) for side in size_hw)
    square = np.zeros((SIZE, SIZE, 3), np.uint8)
    square[:rows, :columns] = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    network = torch_backend._network
    with torch.inference_mode():
        words = (getattr(state, name) for name in ('semantic_tokens', 'token_mask', 'text_embeddings', 'synonym_mask'))
        tokens, token_mask, embeddings, synonyms = map(torch.from_numpy, words)
        pixels = torch.from_numpy(square).permute(2, 0, 1)[None] / 255
        encoded = network.encode(pixels, tokens, token_mask)
        limits = ThresholdTensors.of(torch.from_numpy(manifest.thresholds.array()))
        classes, scores = network.head.classify(*encoded[1:], embeddings, synonyms, limits.objectness_trust)
        edge = network.head.merge_size
        probability = F.interpolate(encoded.mask_logits[None], (edge, edge), mode='bilinear')[0].sigmoid()
        cut = probability[:, : math.ceil(edge * rows / SIZE), : math.ceil(edge * columns / SIZE)]
        expected = merge(cut, classes, scores, torch.from_numpy(state.is_thing)[classes], limits)
    result = {}
    placed = manifest.thresholds.placed((rows / SIZE, columns / SIZE))
    runner = FrameRunner(network, network.head, manifest.image_size_hw, HostQueue())
    for name, entry in (('torch', torch_backend), ('onnxruntime', backend), ('runner', runner)):
        raw = entry.segment(square, state, placed)
        shown = raw.query_map[: cut.shape[1], : cut.shape[2]]
        assert np.count_nonzero(raw.query_map) == np.count_nonzero(shown)
        # Random masks are so alike that a cell may go to another one by rounding.
        assert (shown == expected.query_map.numpy()).mean() > 0.99
        np.testing.assert_array_equal(raw.class_index, expected.class_index.numpy())
        np.testing.assert_allclose(raw.score, expected.score.numpy(), atol=1e-4)
        result[name] = raw
    assert len(np.unique(expected.query_map)) > 3, 'random masks that all look alike compare nothing'
    for name, entry in (('torch', torch_backend), ('onnxruntime', backend)):
        segmenter = Segmenter(entry, manifest)
        by_hand = list_segments(result[name], state.vocabulary, segmenter.placement(size_hw))
        found = segmenter.segment(image, state)
        np.testing.assert_array_equal(found.panoptic_map, by_hand.panoptic_map)
        assert found.segments == by_hand.segments

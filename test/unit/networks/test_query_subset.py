from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file
import torch
import yaml

from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.core.manifest import file_sha256, load_manifest, verify_weights
from fisa_ros.networks.build import build_network
from fisa_ros.networks.load import load_network
from fisa_ros.networks.query_subset import count_queries, write_query_subset
from fisa_ros.networks.weights import save_weights

SIZE, NUM_QUERIES = 64, 6
GENERATORS = {
    'tiny': {
        'type': 'tiny', 'image_size': SIZE, 'num_queries': NUM_QUERIES, 'channels': [8, 16, 32], 'blocks': [0, 0, 1],
        'heads': 2, 'encoder_blocks': 1, 'query_blocks': 1, 'mask_channels': 8,
    },
    'eomt': {
        'type': 'eomt',
        'config': {
            'image_size': SIZE, 'patch_size': 16, 'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 2,
            'num_blocks': 1, 'num_queries': NUM_QUERIES, 'num_labels': 3, 'num_register_tokens': 1,
        },
    },
    'mask2former': {
        'type': 'mask2former',
        'image_size': SIZE,
        'config': {
            'feature_size': 32, 'hidden_dim': 32, 'mask_feature_size': 32, 'encoder_layers': 1, 'decoder_layers': 2,
            'encoder_feedforward_dim': 32, 'dim_feedforward': 32, 'num_attention_heads': 2, 'num_queries': NUM_QUERIES,
            'backbone_config': {
                'model_type': 'swin', 'embed_dim': 8, 'depths': [1, 1, 1, 1], 'num_heads': [1, 1, 1, 1],
                'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
            },
        },
    },
}  # fmt: skip
CLASSIFIER = {
    'type': 'tiny', 'image_size': SIZE, 'text_dim': 384, 'width': 32, 'layers': 1, 'heads': 2,
    'stem_channels': [8, 16, 32], 'stem_blocks': [0, 0, 1], 'seve_blocks': 1, 'seve_width': 16, 'merge_size': 32,
}  # fmt: skip
_TRANSFORMER = 'generator.model.model.transformer_module'
TENSORS = {
    'tiny': ['generator.queries'],
    'eomt': ['generator.model.query.weight'],
    'mask2former': [f'{_TRANSFORMER}.queries_features.weight', f'{_TRANSFORMER}.queries_embedder.weight'],
}


def frames():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(3)]


@pytest.fixture(params=GENERATORS)
def manifest(request, tmp_path):
    """A model of random weights whose queries differ in how much they find."""
    torch.manual_seed(2)
    network = build_network(GENERATORS[request.param], CLASSIFIER)
    with torch.no_grad():
        for name in TENSORS[request.param]:
            network.get_parameter(name).normal_()
    save_weights(network, tmp_path / 'toy.safetensors')
    shipped = load_manifest('fisa-tiny')
    document = yaml.safe_load(shipped.path.read_text()) | {
        'name': 'toy',
        'image_size_hw': [SIZE, SIZE],
        'weights': {'file': 'toy.safetensors', 'sha256': file_sha256(tmp_path / 'toy.safetensors')},
        'generator': GENERATORS[request.param],
        'classifier': CLASSIFIER,
    }
    (tmp_path / 'toy.yaml').write_text(yaml.safe_dump(document))
    return load_manifest(tmp_path / 'toy.yaml')


@torch.inference_mode()
def proposals(manifest):
    generator = load_network(manifest).eval().generator
    return [generator(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255) for frame in frames()]


def test_the_queries_that_find_most_stay_in_their_order(manifest, tmp_path):
    assert count_queries(manifest) == NUM_QUERIES
    variant = load_manifest(write_query_subset(manifest, tmp_path / 'subset', 4, frames()))
    verify_weights(variant)
    assert (variant.name, variant.thresholds, count_queries(variant)) == ('toy', manifest.thresholds, 4)
    objectness = np.mean([found.objectness[0].numpy() for found in proposals(manifest)], axis=0)
    assert len(np.unique(objectness)) == NUM_QUERIES
    kept = sorted(np.argsort(objectness)[2:].tolist())
    before, after = load_file(manifest.weights.path), load_file(variant.weights.path)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = tensor[kept] if name in TENSORS[manifest.generator['type']] else tensor
        assert torch.equal(after[name], expected), name
    assert [found.mask_logits.shape[1] for found in proposals(variant)] == [4, 4, 4]


def test_all_queries_are_the_model_itself(manifest, tmp_path):
    variant = load_manifest(write_query_subset(manifest, tmp_path / 'subset', NUM_QUERIES, frames()))
    for found, expected in zip(proposals(variant), proposals(manifest), strict=True):
        assert torch.equal(found.mask_logits, expected.mask_logits)
        assert torch.equal(found.objectness, expected.objectness)


def test_weights_are_made_once_and_the_manifest_follows_its_model(manifest, tmp_path):
    first = load_manifest(write_query_subset(manifest, tmp_path / 'subset', 2, frames()))
    made = first.weights.path.stat()
    manifest.path.write_text(manifest.path.read_text().replace('score: 0.35', 'score: 0.125'))
    second = load_manifest(write_query_subset(load_manifest(manifest.path), tmp_path / 'subset', 2, frames()))
    assert (first.thresholds.score, second.thresholds.score) == (0.35, 0.125)
    found = second.weights.path.stat()
    assert (found.st_ino, found.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert sorted(path.name for path in (tmp_path / 'subset').iterdir()) == ['toy.safetensors', 'toy.yaml']


@pytest.mark.parametrize('count', [0, -1, 7])
def test_other_numbers_are_refused(manifest, tmp_path, count):
    with pytest.raises(ManifestError, match=rf"masks must be in 1\.\.6 for model 'toy', got {count}"):
        write_query_subset(manifest, tmp_path / 'subset', count, frames())
    assert not (tmp_path / 'subset').exists()


@pytest.mark.parametrize('manifest', ['tiny'], indirect=True)
def test_models_that_cannot_be_cut_are_refused(manifest, tmp_path):
    other = replace(manifest, generator={'type': 'sam'})
    with pytest.raises(ManifestError, match="of type 'sam' cannot be changed, only of tiny, eomt, mask2former"):
        count_queries(other)
    with pytest.raises(ManifestError, match="'toy' was not read from a file"):
        write_query_subset(replace(manifest, path=None), tmp_path / 'subset', 2, frames())
    manifest.weights.path.write_bytes(b'')
    with pytest.raises(WeightsError, match='are damaged'):
        count_queries(manifest)
    unchecked = replace(manifest, weights=replace(manifest.weights, sha256=None))
    with pytest.raises(WeightsError, match='cannot be read'):
        count_queries(unchecked)

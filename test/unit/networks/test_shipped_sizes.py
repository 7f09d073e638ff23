"""The sizes of the shipped manifests, without memory for their weights."""

import pytest
import torch

from fisa_ros.core.manifest import load_manifest
from fisa_ros.networks.build import build_network, build_text_encoder


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ('model', 'generator', 'tower', 'text', 'grid'),
    [
        # Generator, CLIP and its text tower as published; the towers of FISA add query projections and SEVE.
        ('fisa-s', 24.0, 86.2 + 7.1 + 2.7, 63.4, (32, 32)),
        ('fisa-l', 316.7, 304.3 + 25.2 + 3.7, 123.7, (40, 40)),
        ('pooled-l', 316.7, 199.8, 152.0, None),
    ],
)
def test_networks_are_of_the_published_sizes(model, generator, tower, text, grid):
    manifest = load_manifest(model)
    with torch.device('meta'):
        network = build_network(manifest.generator, manifest.classifier)
        encoder = build_text_encoder(manifest.text_encoder)
    assert millions(network.generator) == pytest.approx(generator, rel=0.01)
    assert millions(network.tower) == pytest.approx(tower, rel=0.01)
    assert millions(encoder) == pytest.approx(text, rel=0.01)
    assert network.tower.embedding_dim == encoder.dim
    assert manifest.classifier['model'] == manifest.text_encoder['model']
    assert not any('attn_mask_probs' in name or 'criterion' in name for name in network.state_dict())
    if grid is not None:
        assert network.tower.visual.grid_size == grid
        height, width = manifest.image_size_hw
        assert (height // 4 % grid[0], width // 4 % grid[1]) == (0, 0), 'masks and patches share their edges'


@pytest.mark.parametrize('model', ['fisa-s', 'fisa-l', 'pooled-l'])
def test_sentences_differ(model):
    templates = load_manifest(model).prompt_templates
    assert len({template.lower().rstrip('.') for template in templates}) == len(templates)

"""Runs the stage of a recipe: renders its views, builds its networks, trains them, writes the result."""

import hashlib
import logging
from pathlib import Path

import torch

from fisa_ros.core.errors import DataError
from fisa_ros.networks.build import build_generator, build_network, build_text_encoder
from fisa_ros.networks.tiny_generator import TinyMaskGenerator
from fisa_ros.networks.weights import save_weights
from fisa_ros.simulation.views import ViewSet, write_views
from fisa_ros.training.classifier_stage import train_classifier
from fisa_ros.training.generator_stage import train_generator
from fisa_ros.training.recipe import Recipe
from fisa_ros.training.vocabulary_sampler import VocabularySampler

NUM_SEMANTIC_TOKENS = 32
_LOG = logging.getLogger('fisa_ros.training')


def _views(recipe: Recipe, out: Path) -> tuple[ViewSet, ViewSet]:
    size = recipe.views['size']
    return (
        write_views(out / 'views' / 'train', 'train', recipe.views['train'], size),
        write_views(out / 'views' / 'validation', 'validation', recipe.views['validation'], size),
    )


def _trained_generator(recipe: Recipe, out: Path) -> TinyMaskGenerator:
    checkpoint = out / 'generator' / 'checkpoint.pt'
    if not checkpoint.is_file():
        raise DataError(f'{checkpoint} is missing: run the generator stage first')
    generator = build_generator(recipe.generator)
    assert isinstance(generator, TinyMaskGenerator)
    generator.load_state_dict(torch.load(checkpoint, weights_only=True)['module'])
    return generator


def run_stage(recipe: Recipe, out: Path, threads: int) -> None:
    """Train the stage of `recipe` with `threads` threads; everything is written below `out`.

    Raises:
        DataError: An earlier stage is missing or the training broke down.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    views, validation = _views(recipe, out)
    if recipe.stage == 'generator':
        generator = build_generator(recipe.generator)
        assert isinstance(generator, TinyMaskGenerator)
        train_generator(generator, views, validation, recipe.phases, out / 'generator', recipe.seed)
        return
    if recipe.classifier is None or recipe.text_encoder is None or recipe.prompt_templates is None:
        raise DataError('a recipe of stage classifier needs classifier, text_encoder and prompt_templates')
    generator = _trained_generator(recipe, out)
    network = build_network(recipe.generator, recipe.classifier)
    network.generator.load_state_dict(generator.state_dict())
    network.tower.visual.conv1.stem.load_state_dict(generator.stem.state_dict())
    sampler = VocabularySampler(build_text_encoder(recipe.text_encoder), recipe.prompt_templates, NUM_SEMANTIC_TOKENS)
    train_classifier(network, sampler, views, validation, recipe.phases, out / 'classifier', recipe.seed)
    network.generator.load_state_dict(_trained_generator(recipe, out).state_dict())
    weights = out / 'fisa-tiny.safetensors'
    save_weights(network, weights)
    _LOG.info('%s  sha256 %s', weights, hashlib.sha256(weights.read_bytes()).hexdigest())

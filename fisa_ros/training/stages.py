"""Runs the stage of a recipe: opens its data, builds its networks, trains them, writes the result."""

from collections.abc import Mapping
from dataclasses import asdict, replace
import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState
import torch
from torch import nn
import yaml

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import file_sha256, load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS
from fisa_ros.datasets.class_split import read_class_split
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.synonyms import read_synonyms
from fisa_ros.networks.build import build_generator, build_network, build_text_encoder
from fisa_ros.networks.image_tower import Regions
from fisa_ros.networks.load import load_network
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.tiny_generator import TinyMaskGenerator
from fisa_ros.networks.weights import save_weights
from fisa_ros.training.checkpoint import write_atomically
from fisa_ros.training.clip_stage import ClipOptions, train_clip
from fisa_ros.training.fisa_stage import FisaOptions, train_fisa
from fisa_ros.training.generator_stage import GeneratorOptions, train_generator
from fisa_ros.training.loop import CHECKPOINT_NAME, RunSettings, load_trained
from fisa_ros.training.recipe import Recipe, parse_options
from fisa_ros.training.vocabulary_sampler import VocabularySampler

MODEL_NAME = 'fisa-tiny'
_LOG = logging.getLogger('fisa_ros.training')


def run_stage(recipe: Recipe, data: Path, out: Path, run: RunSettings, earlier: Path | None = None) -> None:
    """Train the stage of `recipe`.

    Args:
        recipe: What is trained.
        data: Folder of the data sets; the recipe names the splits in it.
        out: Folder of all stages; each has its own below it.
        run: How it is run.
        earlier: Folder of the stages that this one needs, by default `out`.

    Raises:
        DataError: An earlier stage is missing, data or settings do not fit, or the training broke down.
    """
    torch.manual_seed(recipe.seed)
    _check_model(recipe)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    earlier = earlier or out
    dataset, validation = open_split(data, recipe.splits['train']), open_split(data, recipe.splits['validation'])
    phases = list(recipe.phases)
    run = replace(run, recipe={**run.recipe, **_sources(recipe, data, earlier)})
    if recipe.stage == 'generator':
        generator = build_generator(_part(recipe, 'generator'))
        if not isinstance(generator, TinyMaskGenerator):
            raise DataError(f'{recipe.where}: only generators of type tiny can be trained')
        if recipe.initial is not None:
            _take_over(generator, _initial_network(recipe.initial).generator.state_dict(), recipe.initial)
        generator_options = parse_options(GeneratorOptions, recipe.options, recipe.where)
        train_generator(generator, dataset, validation, phases, out / 'generator', recipe.seed, generator_options, run)
        return
    network = build_network(_part(recipe, 'generator'), _part(recipe, 'classifier'))
    encoder = build_text_encoder(_part(recipe, 'text_encoder'))
    if not encoder.has_own_weights:
        raise DataError(f'{recipe.where}: text_encoder of a training must bring its weights, as type sentence does')
    load_generator(network, recipe, earlier)
    if recipe.stage == 'clip':
        clip_options = parse_options(ClipOptions, recipe.options, recipe.where)
        network.trainable_tower.visual.conv1.stem.load_state_dict(network.generator.get_submodule('stem').state_dict())
        names = {category.id: [category.name] for category in dataset.categories.values()}
        sampler = VocabularySampler(encoder, recipe.prompt_templates, NUM_SEMANTIC_TOKENS, names, list(names))
        captions = data / 'annotations' / f'captions_{recipe.splits["train"]}.json'
        train_clip(
            network, encoder, sampler.full(), dataset, captions, validation, phases, out / 'clip', recipe.seed,
            clip_options, run,
        )  # fmt: skip
        return
    fisa_options = parse_options(FisaOptions, recipe.options, recipe.where)
    load_clip(network, earlier / 'clip')
    novel = novel_categories(fisa_options.class_split, dataset)
    names = names_of_categories(fisa_options.synonyms, dataset)
    tuned = [category for category in names if category not in novel]
    sampler = VocabularySampler(encoder, recipe.prompt_templates, NUM_SEMANTIC_TOKENS, names, tuned)
    train_fisa(network, sampler, novel, dataset, validation, phases, out / 'fisa', recipe.seed, fisa_options, run)
    if PartialState().is_main_process:
        _LOG.info('trained: --model %s', write_model(out / 'fisa', network, recipe))


def write_model(folder: Path, network: SegmentationNetwork, recipe: Recipe) -> Path:
    """Write weights and manifest of a trained network into `folder` and return the manifest.

    Thresholds are those of the recipe's initial model, or middling ones; `tools.calibrate` finds better ones. A
    manifest that already describes these very weights stays, with what calibration wrote into it.
    """
    weights, manifest = folder / f'{MODEL_NAME}.safetensors', folder / f'{MODEL_NAME}.yaml'
    save_weights(network, weights)
    if manifest.is_file() and load_manifest(manifest).weights.sha256 == file_sha256(weights):
        return manifest
    thresholds = load_manifest(recipe.initial).thresholds if recipe.initial else Thresholds(0.25, 0.4, 0.5)
    document = {
        'name': MODEL_NAME,
        'description': f'Made from {Path(recipe.where).name}.',
        'licence': 'Apache-2.0',
        'image_size_hw': list(network.tower.visual.image_size),
        'weights': {'file': weights.name, 'sha256': file_sha256(weights)},
        'generator': dict(_part(recipe, 'generator')),
        'classifier': dict(_part(recipe, 'classifier')),
        'text_encoder': dict(_part(recipe, 'text_encoder')),
        'prompt_templates': list(recipe.prompt_templates),
        'thresholds': asdict(thresholds),
    }
    text = yaml.safe_dump(document, sort_keys=False).encode()
    write_atomically(manifest, lambda file: file.write(text))
    return manifest


def write_untuned_model(folder: Path, recipe: Recipe, earlier: Path, regions: Regions) -> Path:
    """Write the model of a recipe of stage fisa before any tuning, as a baseline; returns its manifest.

    Args:
        folder: Where it goes.
        recipe: The recipe.
        earlier: Folder of the stages before.
        regions: What embeds a region, see `FisaImageTower`.
    """
    classifier = {**_part(recipe, 'classifier'), 'regions': regions}
    recipe = replace(recipe, classifier=classifier)
    network = build_network(_part(recipe, 'generator'), classifier)
    load_generator(network, recipe, earlier)
    load_clip(network, earlier / 'clip')
    return write_model(folder, network, recipe)


def _sources(recipe: Recipe, data: Path, earlier: Path) -> dict[str, str]:
    """Tell apart, by their sums, the data and earlier stages that a run may be resumed with."""
    paths = {'data': data / 'annotations' / f'panoptic_{recipe.splits["train"]}.json'}
    if recipe.stage != 'generator':
        paths['generator'] = earlier / 'generator' / CHECKPOINT_NAME
    if recipe.stage == 'fisa':
        paths['clip'] = earlier / 'clip' / CHECKPOINT_NAME
    return {name: file_sha256(path) for name, path in paths.items() if path.is_file()}


def open_split(data: Path, split: str) -> PanopticDataset:
    """Open a split of a folder that is laid out as COCO's.

    Raises:
        DataError: It is missing or broken.
    """
    return PanopticDataset.open(data / split, data / 'annotations' / f'panoptic_{split}.json')


def load_clip(network: SegmentationNetwork, folder: Path) -> None:
    """Put what stage clip trained into the network's tower and head, and start FISA's parts afresh from it.

    Raises:
        DataError: The stage was not run.
    """
    _load(nn.ModuleDict({'tower': network.tower, 'head': network.head}), folder, 'clip')
    network.trainable_tower.start_from_clip()


def novel_categories(class_split: str, dataset: PanopticDataset) -> list[int]:
    """Return the ids of the novel categories that a file of a class split names; none without a file.

    Raises:
        DataError: The file is no class split, or it and the data set do not name the same categories.
    """
    if not class_split:
        return []
    path = _vocabulary_file(class_split)
    split = read_class_split(path)
    known = {category.name: category.id for category in dataset.categories.values()}
    differing = sorted({*split.base, *split.novel} ^ set(known))
    if differing:
        raise DataError(f'{path} and {dataset.path} must name the same categories; see {differing}')
    return [known[name] for name in split.novel]


def names_of_categories(synonyms: str, dataset: PanopticDataset) -> dict[int, list[str]]:
    """Return the names of each category: its own, then the training synonyms of a file.

    Raises:
        DataError: The file cannot be read or lacks a category.
    """
    if not synonyms:
        return {category.id: [category.name] for category in dataset.categories.values()}
    words = read_synonyms(_vocabulary_file(synonyms))
    if missing := [category.name for category in dataset.categories.values() if category.name not in words]:
        raise DataError(f'{synonyms}: no training synonyms for {", ".join(map(repr, missing))}')
    return {category.id: [category.name, *words[category.name].training] for category in dataset.categories.values()}


def _vocabulary_file(name_or_path: str) -> Path:
    if name_or_path.endswith('.yaml'):
        return Path(name_or_path)
    return share_dir() / 'config' / 'vocabularies' / f'{name_or_path}.yaml'


def _check_model(recipe: Recipe) -> None:
    """Refuse what would break only in the middle of training.

    Raises:
        DataError: Sizes, templates or regions do not fit.
    """
    if recipe.stage == 'generator':
        return
    size = _part(recipe, 'classifier').get('image_size')
    for phase in recipe.phases:
        if phase.size != size:
            raise DataError(f"{recipe.where}: size of a phase must be the classifier's {size}, got {phase.size}")
    if not recipe.prompt_templates:
        raise DataError(f'{recipe.where}: stage {recipe.stage} needs prompt_templates')
    for template in recipe.prompt_templates:
        if template.count('{}') != 1:
            raise DataError(f'{recipe.where}: prompt_templates must have one {{}} each, got {template!r}')
    if _part(recipe, 'classifier').get('regions', 'mask_tokens') != 'mask_tokens':
        raise DataError(f'{recipe.where}: regions must be mask_tokens where FISA is trained')


def _part(recipe: Recipe, name: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] | None = getattr(recipe, name)
    if part is None:
        raise DataError(f'{recipe.where}: stage {recipe.stage} needs {name}')
    return part


def _initial_network(model: str) -> SegmentationNetwork:
    return load_network(load_manifest(model))


def load_generator(network: SegmentationNetwork, recipe: Recipe, out: Path) -> None:
    """Put the generator that stage generator trained into `network`, or else that of the recipe's initial model.

    Raises:
        DataError: There is neither.
    """
    if (out / 'generator' / CHECKPOINT_NAME).is_file():
        _load(network.generator, out / 'generator', 'generator')
    elif recipe.initial is not None:
        _take_over(network.generator, _initial_network(recipe.initial).generator.state_dict(), recipe.initial)
        _LOG.info('no generator in %s: that of %s is used', out, recipe.initial)
    else:
        raise DataError(f'{out / "generator"} is missing: run the generator stage first, or name `initial` weights')


def _load(module: nn.Module, folder: Path, stage: str) -> None:
    if not folder.is_dir():
        raise DataError(f'{folder} is missing: run the {stage} stage first')
    _take_over(module, load_trained(folder), str(folder))


def _take_over(module: nn.Module, state: Mapping[str, Any], source: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f'{source} does not fit this recipe: {error}') from error

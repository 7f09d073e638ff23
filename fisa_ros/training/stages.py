"""Runs the stage of a recipe: opens its data, builds its networks, trains them, writes the result."""

from collections.abc import Mapping
from dataclasses import replace
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import ModelManifest, file_sha256, load_manifest
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.registry import open_dataset
from fisa_ros.networks.build import build_generator, build_network, build_text_encoder
from fisa_ros.networks.image_tower import Regions
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.networks.tiny_generator import TinyMaskGenerator
from fisa_ros.training.category_names import names_of_categories, novel_categories, published_names
from fisa_ros.training.clip_stage import ClipOptions, train_clip
from fisa_ros.training.fisa_stage import FisaOptions, train_fisa
from fisa_ros.training.generator_stage import GeneratorOptions, train_generator
from fisa_ros.training.loop import CHECKPOINT_NAME, load_trained, recipe_entry
from fisa_ros.training.memory_errors import ALL_ELSE, told_of_memory
from fisa_ros.training.processes import Processes
from fisa_ros.training.recipe import Recipe, parse_options
from fisa_ros.training.settings import RunSettings
from fisa_ros.training.vocabulary_sampler import VocabularySampler
from fisa_ros.training.written_model import write_model

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
        DataError: An earlier stage is missing, data or settings do not fit, the training broke down, or the memory of
            the GPU is used up.
        ManifestError: The initial model is unknown or cannot be built.
        WeightsError: The initial model has no weights here, or they are damaged.
    """
    # What happens in the training itself is told of more closely.
    with told_of_memory(Processes().device, 'before or after the training', ALL_ELSE):
        _run(recipe, data, out, run, earlier)


def _run(recipe: Recipe, data: Path, out: Path, run: RunSettings, earlier: Path | None) -> None:
    if run.mask_cache is not None and recipe.stage != 'fisa':
        raise DataError(f'masks are kept for stage fisa alone, {recipe.where} is of stage {recipe.stage}')
    torch.manual_seed(recipe.seed)
    recipe, initial = with_parts(recipe)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    earlier = earlier or out
    dataset, validation = (open_data(recipe, data, part) for part in ('train', 'validation'))
    phases = list(recipe.phases)
    processes = Processes()
    sources = _sources(recipe, dataset, earlier, initial)
    resize = _resize(recipe)
    if resize != STRETCH:
        sources['resize'] = resize.kind
    if run.mask_cache is not None:
        sources['mask_cache'] = 'used'
    run = replace(run, recipe={**run.recipe, **sources}, loaders=processes.loaders(run.loaders))
    if recipe.stage == 'generator':
        generator = build_generator(_part(recipe, 'generator'))
        if not isinstance(generator, TinyMaskGenerator):
            raise DataError(f'{recipe.where}: only generators of type tiny can be trained')
        if recipe.initial is not None:
            _take_over(generator, _initial_network(recipe.initial).generator.state_dict(), recipe.initial)
        generator_options = parse_options(GeneratorOptions, recipe.options, recipe.where)
        train_generator(
            generator, dataset, validation, phases, out / 'generator', recipe.seed, generator_options, run, resize
        )  # fmt: skip
        return
    network, encoder = _start(recipe, earlier, initial)
    encoder.to(processes.device)
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
    novel = novel_categories(fisa_options.class_split, dataset)
    if recipe.dataset and not fisa_options.synonyms:
        names = published_names(recipe.dataset, dataset)
    else:
        names = names_of_categories(fisa_options.synonyms, dataset)
    tuned = [category for category in names if category not in novel]
    sampler = VocabularySampler(encoder, recipe.prompt_templates, NUM_SEMANTIC_TOKENS, names, tuned)
    encoder.to('cpu')
    train_fisa(
        network, sampler, novel, dataset, validation, phases, out / 'fisa', recipe.seed, fisa_options, run, resize
    )
    if processes.is_main:
        _LOG.info('trained: --model %s', write_model(out / 'fisa', network, encoder, recipe, initial))


def with_parts(recipe: Recipe) -> tuple[Recipe, ModelManifest | None]:
    """Check a recipe and fill in the parts that it takes from its initial model.

    Returns:
        The whole recipe, and the manifest of its initial model where all parts are from there.

    Raises:
        DataError: Parts, sizes, templates or regions do not fit each other: they would break in the middle of training.
        ManifestError: The initial model is unknown or its manifest cannot be read.
    """
    if recipe.stage == 'generator':
        return recipe, None
    initial = None
    if recipe.takes_initial_parts:
        initial = load_manifest(str(recipe.initial))
        if initial.classifier['type'] == 'pooled':
            raise DataError(f'{recipe.where}: {initial.name} has nothing to train, its classifier is pooled')
        recipe = replace(
            recipe,
            generator=initial.generator,
            classifier=initial.classifier,
            text_encoder=initial.text_encoder,
            prompt_templates=recipe.prompt_templates or initial.prompt_templates,
        )
        height, width = initial.image_size_hw
        if height != width:
            raise DataError(f'{recipe.where}: training needs square images, {initial.name} has {height}x{width}')
        size: object = height
        owner = f"model {initial.name}'s"
    else:
        size, owner = _part(recipe, 'classifier').get('image_size'), "the classifier's"
    for phase in recipe.phases:
        if phase.size != size:
            raise DataError(f'{recipe.where}: size of a phase must be {owner} {size}, got {phase.size}')
    if not recipe.prompt_templates:
        raise DataError(f'{recipe.where}: stage {recipe.stage} needs prompt_templates')
    for template in recipe.prompt_templates:
        if template.count('{}') != 1:
            raise DataError(f'{recipe.where}: prompt_templates must have one {{}} each, got {template!r}')
    if _part(recipe, 'classifier').get('regions', 'mask_tokens') != 'mask_tokens':
        raise DataError(f'{recipe.where}: regions must be mask_tokens where FISA is trained')
    return recipe, initial


def _resize(recipe: Recipe) -> Resize:
    """Return how the trained model will get its images: as the one that it starts from."""
    resize = STRETCH if recipe.initial is None else load_manifest(recipe.initial).resize
    if recipe.stage == 'clip' and resize != STRETCH:
        raise DataError(
            f'{recipe.where}: stage clip takes images that are stretched, {recipe.initial} has resize: {resize.kind}'
        )
    return resize


def _start(recipe: Recipe, earlier: Path, initial: ModelManifest | None) -> tuple[SegmentationNetwork, TextEncoder]:
    """Return network and text encoder as the stages clip and fisa start from them."""
    if initial is not None:
        return load_network(initial), load_text_encoder(initial)
    network = build_network(_part(recipe, 'generator'), _part(recipe, 'classifier'))
    encoder = _own_encoder(recipe)
    load_generator(network, recipe, earlier)
    if recipe.stage == 'fisa':
        load_clip(network, earlier / 'clip')
    return network, encoder


def _own_encoder(recipe: Recipe) -> TextEncoder:
    encoder = build_text_encoder(_part(recipe, 'text_encoder'))
    if not encoder.has_own_weights:
        raise DataError(
            f'{recipe.where}: text_encoder must bring its weights, as type sentence does; those of other types come '
            'with the initial model, in a recipe without parts of its own'
        )
    return encoder


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
    return write_model(folder, network, _own_encoder(recipe), recipe)


def _sources(recipe: Recipe, dataset: PanopticDataset, earlier: Path, initial: ModelManifest | None) -> dict[str, str]:
    """Tell apart, by their sums, the data, earlier stages and weights that a run may be resumed with."""
    paths = {'data': dataset.path}
    if initial is not None:
        paths['initial'] = initial.weights.path
    elif recipe.stage != 'generator':
        paths['generator'] = earlier / 'generator' / CHECKPOINT_NAME
    if initial is None and recipe.stage == 'fisa':
        if recipe.initial is not None and not paths['generator'].is_file():
            paths['initial'] = load_manifest(recipe.initial).weights.path
        paths['clip'] = earlier / 'clip' / CHECKPOINT_NAME
    return {name: file_sha256(path) for name, path in paths.items() if path.is_file()}


def open_data(recipe: Recipe, data: Path, part: str) -> PanopticDataset:
    """Open what a recipe uses for `train` or `validation`.

    Raises:
        DataError: It is missing or broken; the text names the layout.
    """
    split = recipe.splits[part]
    return open_dataset(recipe.dataset, data, split) if recipe.dataset else open_split(data, split)


def open_split(data: Path, split: str) -> PanopticDataset:
    """Open a split of a folder that is laid out as COCO's.

    Raises:
        DataError: It is missing or broken.
    """
    missing = [path for path in (data / split, data / 'annotations' / f'panoptic_{split}.json') if not path.exists()]
    if missing:
        raise DataError(
            f'{missing[0]} is missing: --data must be a folder with {split}/ (images), '
            f'annotations/panoptic_{split}.json and annotations/panoptic_{split}/ (PNG), as COCO has them'
        )
    return PanopticDataset.open(data / split, data / 'annotations' / f'panoptic_{split}.json')


def load_clip(network: SegmentationNetwork, folder: Path) -> None:
    """Put what stage clip trained into the network's tower and head, and start FISA's parts afresh from it.

    Raises:
        DataError: The stage was not run.
    """
    _load(nn.ModuleDict({'tower': network.tower, 'head': network.head}), folder, 'clip')
    network.trainable_tower.start_from_clip()


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
        DataError: There is neither, or the trained one got its images in another way.
    """
    trained = out / 'generator'
    if (trained / CHECKPOINT_NAME).is_file():
        found, wanted = recipe_entry(trained, 'resize') or STRETCH.kind, _resize(recipe).kind
        if found != wanted:
            raise DataError(
                f'{trained} was trained with resize: {found}, {recipe.where} has resize: {wanted}: use another '
                'folder, or train its generator from the same `initial`'
            )
        _load(network.generator, trained, 'generator')
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

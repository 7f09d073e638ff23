"""Adapts a model to a site: opens its images, tunes, compares before and after, and writes what is good enough."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import logging
from pathlib import Path
import re
from tempfile import TemporaryDirectory
import time
from typing import Any

import numpy as np
import torch

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import ModelManifest, load_manifest
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.site_classes import SiteClasses, write_vocabulary
from fisa_ros.datasets.site_images import part_of
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.training.adapt_site import MaskedSite, hold_out, open_for_adapting, open_rehearsal
from fisa_ros.training.adapt_stage import AdaptOptions, interpolate, tune, tuned_state
from fisa_ros.training.adapted_model import write_adapted_model
from fisa_ros.training.batches import training_batches, validation_batches
from fisa_ros.training.frozen_views import FrozenView, Guard, freeze_views, vocabulary_tensors
from fisa_ros.training.mask_scores import MaskScores, count_base_masks, score_views, sure_views
from fisa_ros.training.processes import Processes
from fisa_ros.training.pseudo_masks import SureRule
from fisa_ros.training.settings import RunSettings
from fisa_ros.training.vocabulary_sampler import VocabularySampler

ALPHAS = (0.5, 0.7, 0.8, 0.9, 1.0)
"""How far to go from the weights before tuning to those after it: what is tried."""
_HELD_OUT_VIEWS = 2
_REHEARSAL_VIEWS = 4
_FREEZE_BATCH = 4
# A view of a large model takes some megabytes.
_MAX_VIEWS = 2000
_MIN_BASE_MASKS = 20
_LOG = logging.getLogger('fisa_ros.training')


@dataclass(frozen=True, slots=True)
class AdaptRequest:
    """What is adapted, to what, and how.

    Attributes:
        model: Name or manifest of the model.
        images: Folder of the site's images.
        base: The vocabulary that must not be forgotten.
        out: Folder of the adapted model.
        name: Its name.
        annotations: Masks of the images; None looks for them, see `find_annotations`.
        names: New classes, each "forklift, lift truck"; empty where the masks say it.
        rehearsal: Folder of other images that show base classes; None for none.
        rehearsal_annotations: Their masks; None looks for them, and there may be none.
        views: Augmented views of each image; fewer where there are many images.
        max_drop: Largest loss of accuracy of base classes, as a share, with which the model is saved.
        is_forced: Whether it is saved all the same.
        seed: Of all that is drawn.
        options: How it is tuned.
        sure: Which masks are taken where there are names alone.
    """

    model: str
    images: Path
    base: VocabularyRequest
    out: Path
    name: str
    annotations: Path | None = None
    names: tuple[str, ...] = ()
    rehearsal: Path | None = None
    rehearsal_annotations: Path | None = None
    views: int = 8
    max_drop: float = 0.01
    is_forced: bool = False
    seed: int = 0
    options: AdaptOptions = field(default_factory=AdaptOptions)
    sure: SureRule = field(default_factory=SureRule)

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_drop <= 1.0:
            raise DataError(f'the allowed drop of base classes must be in [0, 100] points, got {self.max_drop * 100:g}')
        if not re.fullmatch(r'[\w.-]+', self.name):
            raise DataError(f'the name of a model may have letters, digits, dots, - and _ alone, got {self.name!r}')
        if self.views < 1:
            raise DataError(f'views of each image must be 1 or more, got {self.views}')


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What came of it.

    Attributes:
        report: All numbers, as plain values.
        refusal: Why nothing was saved; empty if it was.
        manifest: The saved model; None if it was not.
        shown: Images to look at: those that were kept out of the tuning, or else all.
    """

    report: Mapping[str, Any]
    refusal: str
    manifest: Path | None
    shown: tuple[Path, ...]


def adapt(request: AdaptRequest, run: RunSettings) -> Adaptation:
    """Adapt a model; its own files are only read.

    Raises:
        DataError: Images or masks are missing, broken or hold nothing new, no mask is sure enough, or the folder cannot
            be written.
        ImageError: An image cannot be read.
        ManifestError: There is no such model, or it is none of FISA's.
        VocabularyError: A new name breaks the rules or is in the base vocabulary.
        WeightsError: The model's weights are missing or damaged, or the adapted ones cannot be written.
    """
    started = time.monotonic()
    manifest = load_manifest(request.model)
    if manifest.image_size_hw[0] != manifest.image_size_hw[1]:
        raise DataError(f'only models with square input can be adapted, {manifest.name} takes {manifest.image_size_hw}')
    for suffix, file in (('yaml', manifest.path), ('safetensors', manifest.weights.path)):
        written = request.out / f'{request.name}.{suffix}'
        if file is not None and written.resolve() == file.resolve():
            raise DataError(f'{written} belongs to the model that is adapted: choose another --out or --name')
    site = open_for_adapting(request.images, request.annotations, request.names, request.base)
    rehearsal = None
    if request.rehearsal is not None:
        rehearsal = open_rehearsal(request.rehearsal, request.rehearsal_annotations, site.classes, request.seed)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    network = load_network(manifest).eval().requires_grad_(False).to(Processes().device)
    encoder = load_text_encoder(manifest)
    guard = _guard(network, encoder, manifest, site.classes)
    if not isinstance(site, MaskedSite):
        site = site.look(network, guard.together, manifest.image_size_hw, request.sure, manifest.resize)
        _LOG.info('masks taken: %s', ', '.join(f'{name} {count}' for name, count in site.counts.items()))
    views = _Views(network, guard, manifest, request)
    tuned, held = hold_out(site.dataset, guard.new, request.seed)
    train_views = views.augmented(part_of(site.dataset, tuned), request.views)
    test_views = views.to_measure(part_of(site.dataset, held or tuned))
    rehearsal_views, base_views = ([], test_views) if rehearsal is None else views.rehearsal(rehearsal)
    is_apart = bool(held) if rehearsal is None else len(rehearsal) > 1
    where = 'images kept out of the tuning' if is_apart else 'the images of the tuning themselves'
    base_truth = f'true masks of {where}'
    if count_base_masks(base_views, guard.new) < _MIN_BASE_MASKS:
        base_truth = f'what the model was sure of before, on {where}'
        base_views = sure_views(base_views, [entry.id for entry in site.classes.base.classes])
    frozen_s = time.monotonic() - started

    def score() -> MaskScores:
        own = score_views(network, test_views, guard)
        return own if base_views is test_views else own.with_base_of(score_views(network, base_views, guard))

    names = {entry.id: list(entry.names) for entry in site.classes.vocabulary.classes}
    sampler = VocabularySampler(encoder, manifest.prompt_templates, NUM_SEMANTIC_TOKENS, names, list(names))
    before, start = score(), tuned_state(network)
    with TemporaryDirectory() as folder:
        steps = tune(
            network, train_views, rehearsal_views, sampler, guard, request.options, Path(folder), request.seed, run
        )
    end = tuned_state(network)
    trials: dict[float, MaskScores] = {}
    for trial in ALPHAS:
        interpolate(network, start, end, trial)
        trials[trial] = score()
    alpha = _best(trials, before, request.max_drop)
    interpolate(network, start, end, alpha)
    shown = [site.dataset.records[index].image_path for index in held or tuned]
    report = {
        'model': manifest.name,
        'model_sha256': manifest.weights.sha256,
        'name': request.name,
        'images': len(site.dataset),
        'held_out_images': [path.name for path in shown] if held else [],
        'views': len(train_views),
        'masks_from': site.source,
        'masks': dict(site.counts),
        'rehearsal': None if rehearsal is None else str(rehearsal.path),
        'rehearsal_images': 0 if rehearsal is None else len(rehearsal),
        'base_measured_on': base_truth,
        'steps': steps,
        'alpha': alpha,
        'before': _plain(before, site.classes),
        'after': _plain(trials[alpha], site.classes),
        'base_drop': trials[alpha].base_drop(before),
        'trials': {str(trial): _plain(scores, site.classes) for trial, scores in trials.items()},
        'seed': request.seed,
        'seconds_frozen_parts': round(frozen_s, 1),
        'seconds': round(time.monotonic() - started, 1),
    }
    refusal = '' if request.is_forced else _refusal(before, trials[alpha], request.max_drop)
    saved = None if refusal else _save(request, network, encoder, manifest, site)
    return Adaptation(report, refusal, saved, tuple(shown))


class _Views:
    """Makes views of images with the frozen parts of the model."""

    def __init__(
        self, network: SegmentationNetwork, guard: Guard, manifest: ModelManifest, request: AdaptRequest
    ) -> None:
        self.network, self.guard, self.request = network, guard, request
        self.size, self.resize = manifest.image_size_hw[0], manifest.resize
        self.rng = np.random.default_rng([request.seed, 7])

    def augmented(self, dataset: PanopticDataset, views: int) -> list[FrozenView]:
        """Return so many augmented views of each image on average; fewer for more than `_MAX_VIEWS` in all."""
        views = min(views, max(1, _MAX_VIEWS // len(dataset)))
        count = -(-len(dataset) * views // _FREEZE_BATCH)
        seed = int(self.rng.integers(2**31))
        batches = training_batches(dataset, self.size, _FREEZE_BATCH, seed, resize=self.resize)
        drawn = (batch for _, batch in zip(range(count), batches, strict=False))
        return freeze_views(self.network, drawn, self.guard, self.rng)

    def plain(self, dataset: PanopticDataset) -> list[FrozenView]:
        """Return one view of each image, as it is."""
        batches = validation_batches(dataset, self.size, _FREEZE_BATCH, resize=self.resize)
        return freeze_views(self.network, batches, self.guard)

    def to_measure(self, dataset: PanopticDataset) -> list[FrozenView]:
        """Return views of few images: as they are, and some augmented ones."""
        return self.plain(dataset) + self.augmented(dataset, _HELD_OUT_VIEWS)

    def rehearsal(self, dataset: PanopticDataset) -> tuple[list[FrozenView], list[FrozenView]]:
        """Return views of one half of the images to tune with, and of the other half to measure on."""
        order = np.random.default_rng([self.request.seed, 8]).permutation(len(dataset)).tolist()
        held = order[: max(1, len(order) // 2)]
        used = order[len(held) :] or held
        return self.augmented(part_of(dataset, used), _REHEARSAL_VIEWS), self.plain(part_of(dataset, held))


def _guard(network: SegmentationNetwork, encoder: TextEncoder, manifest: ModelManifest, classes: SiteClasses) -> Guard:
    device = network.head.logit_scale.device
    together, base = (
        vocabulary_tensors(vocabulary, encoder, manifest.prompt_templates).to(device)
        for vocabulary in (classes.vocabulary, classes.base)
    )
    return Guard(together, base, classes.new_numbers)


def _save(
    request: AdaptRequest,
    network: SegmentationNetwork,
    encoder: TextEncoder,
    manifest: ModelManifest,
    site: MaskedSite,
) -> Path:
    labels = [entry.name for entry in site.classes.new]
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        write_vocabulary(
            site.classes, request.out / f'{request.name}_vocabulary.yaml', f'Base classes and {", ".join(labels)}.'
        )
    except OSError as error:
        raise DataError(f'{request.out} cannot be written: {error}') from error
    return write_adapted_model(request.out, request.name, network, encoder, manifest, len(site.dataset), labels)


def _best(trials: Mapping[float, MaskScores], before: MaskScores, max_drop: float) -> float:
    """Return the step at which new classes are best and base classes kept, or else gains outweigh losses most."""
    allowed = [alpha for alpha, scores in trials.items() if scores.base_drop(before) <= max_drop]
    if allowed:
        return max(allowed, key=lambda alpha: (trials[alpha].new or 0.0, -alpha))
    return max(trials, key=lambda alpha: (trials[alpha].new or 0.0) - trials[alpha].base_drop(before))


def _refusal(before: MaskScores, after: MaskScores, max_drop: float) -> str:
    if after.base_masks < _MIN_BASE_MASKS:
        return (
            f'base classes could be measured on {after.base_masks} masks only, {_MIN_BASE_MASKS} are needed: nothing '
            'was saved. Give --rehearsal images that show them, or --force'
        )
    drop = after.base_drop(before)
    if drop > max_drop:
        return (
            f'base classes lose {100 * drop:.1f} points, more than the {100 * max_drop:g} allowed: nothing was saved. '
            'Give --rehearsal images that show them, or --force'
        )
    if (after.new or 0.0) <= (before.new or 0.0):
        return (
            f'new classes are no better than before ({_text(before.new)}, now {_text(after.new)}): nothing was saved. '
            'Give more images of them, or --force'
        )
    return ''


def _plain(scores: MaskScores, classes: SiteClasses) -> dict[str, Any]:
    names = {entry.id: entry.name for entry in classes.new}
    return {**asdict(scores), 'per_class': {names[number]: value for number, value in scores.per_class.items()}}


def _text(value: float | None) -> str:
    return 'none' if value is None else f'{100 * value:.1f} %'

"""Adapts a model to a site: opens its images, tunes, compares before and after, and writes what is good enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import logging
from pathlib import Path
import re
from tempfile import TemporaryDirectory
import time
from typing import Any

import torch

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import ModelManifest, load_manifest
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.site_classes import SiteClasses
from fisa_ros.networks.load import load_network, load_text_encoder
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.training.adapt_choice import ALPHAS, SHORT_ALPHAS, Choice, choose, refusal
from fisa_ros.training.adapt_site import MaskedSite, open_for_adapting, open_rehearsal
from fisa_ros.training.adapt_stage import MEMORY_ADVICE, AdaptOptions, interpolate, tune, tuned_state
from fisa_ros.training.adapt_views import AdaptViews, ViewMaker
from fisa_ros.training.adapted_model import AdaptedFiles, write_adapted_model
from fisa_ros.training.frozen_views import Guard, vocabulary_tensors
from fisa_ros.training.mask_scores import MaskScores
from fisa_ros.training.memory_errors import is_out_of_host_memory, told_of_memory
from fisa_ros.training.processes import Processes
from fisa_ros.training.pseudo_masks import SureRule
from fisa_ros.training.settings import RunSettings
from fisa_ros.training.vocabulary_sampler import VocabularySampler

_MAX_NAME_BYTES = 100
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
        may_replace: Whether an adapted model of the same name may be replaced.
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
    may_replace: bool = False
    seed: int = 0
    options: AdaptOptions = field(default_factory=AdaptOptions)
    sure: SureRule = field(default_factory=SureRule)

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_drop <= 1.0:
            raise DataError(f'the allowed drop of base classes must be in [0, 100] points, got {self.max_drop * 100:g}')
        if not re.fullmatch(r'\w[\w.-]*', self.name) or len(self.name.encode()) > _MAX_NAME_BYTES:
            raise DataError(
                'the name of a model may have letters, digits, dots, - and _ alone, a letter or digit first, '
                f'{_MAX_NAME_BYTES} bytes at most, got {self.name!r}'
            )
        if self.views < 1:
            raise DataError(f'views of each image must be 1 or more, got {self.views}')
        if self.seed < 0:
            raise DataError(f'seed must be 0 or more, got {self.seed}')

    @property
    def files(self) -> AdaptedFiles:
        """Where the adapted model will lie."""
        return AdaptedFiles(self.out, self.name)


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What came of it.

    Attributes:
        report: All numbers, as plain values.
        refusal: Why nothing was saved; empty if it was.
        files: Where the saved model lies; None if it was not saved.
        shown: Images to look at: those that were kept out of the tuning, or else all.
    """

    report: Mapping[str, Any]
    refusal: str
    files: AdaptedFiles | None
    shown: tuple[Path, ...]

    @property
    def manifest(self) -> Path | None:
        """The saved model; None if it was not saved."""
        return None if self.files is None else self.files.manifest


def adapt(request: AdaptRequest, run: RunSettings) -> Adaptation:
    """Adapt a model; its own files are only read.

    Raises:
        DataError: Images or masks are missing, broken or hold nothing new, no mask is sure enough, the folder cannot be
            written, there is a model of that name, or the memory of the GPU or of the machine is used up.
        ImageError: An image cannot be read.
        ManifestError: There is no such model, or it is none of FISA's.
        VocabularyError: A new name breaks the rules or is in the base vocabulary.
        WeightsError: The model's weights are missing or damaged, or the adapted ones cannot be written.
        TrainingStoppedError: A signal ended it while it tuned; nothing is saved.
    """
    try:
        with told_of_memory(Processes().device, f'while {request.model} is adapted', MEMORY_ADVICE):
            return _adapt(request, run)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_host_memory(error):
            raise
        reason = str(error).partition('\n')[0]
        raise DataError(
            f'{request.model} and its views do not fit into the memory of this machine: take fewer --views or images, '
            f'or a smaller model ({reason})'
        ) from error


def _adapt(request: AdaptRequest, run: RunSettings) -> Adaptation:
    started = time.monotonic()
    manifest = load_manifest(request.model)
    if manifest.image_size_hw[0] != manifest.image_size_hw[1]:
        raise DataError(f'only models with square input can be adapted, {manifest.name} takes {manifest.image_size_hw}')
    request.files.require_free(manifest, may_replace=request.may_replace)
    site = open_for_adapting(request.images, request.annotations, request.names, request.base)
    rehearsal = None
    if request.rehearsal is not None:
        rehearsal = open_rehearsal(request.rehearsal, request.rehearsal_annotations, site.classes, request.seed)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    device = Processes().device
    _LOG.info('%s on %s, %d images', manifest.name, device, len(site))
    network = load_network(manifest).eval().requires_grad_(False).to(device)
    encoder = load_text_encoder(manifest)
    guard = _guard(network, encoder, manifest, site.classes)
    if not isinstance(site, MaskedSite):
        site = site.look(network, guard.together, manifest.image_size_hw, request.sure, manifest.resize)
        _LOG.info('masks taken: %s', ', '.join(f'{name} {count}' for name, count in site.counts.items()))
    views = ViewMaker(network, guard, manifest, request.views, request.seed).make(site, rehearsal)
    frozen_s = time.monotonic() - started
    _LOG.info('%d views to tune with, made in %.0f s', len(views.tuning) + len(views.rehearsal), frozen_s)
    choice, steps = _tuned(network, encoder, manifest, views, guard, site, request, run)
    shown = tuple(site.dataset.records[index].image_path for index in views.measured)
    report = {
        'model': manifest.name,
        'model_sha256': manifest.weights.sha256,
        'name': request.name,
        'steps': steps,
        'seed': request.seed,
        **_of_images(site, rehearsal, views, shown),
        **_of_choice(choice, site.classes),
        'seconds_frozen_parts': round(frozen_s, 1),
        'seconds': round(time.monotonic() - started, 1),
    }
    refused = '' if request.is_forced else refusal(choice, request.max_drop, is_guessed=site.is_guessed)
    if refused:
        return Adaptation(report, refused, None, shown)
    write_adapted_model(request.files, network, encoder, manifest, len(site), site.classes)
    return Adaptation(report, '', request.files, shown)


def _tuned(
    network: SegmentationNetwork,
    encoder: TextEncoder,
    manifest: ModelManifest,
    views: AdaptViews,
    guard: Guard,
    site: MaskedSite,
    request: AdaptRequest,
    run: RunSettings,
) -> tuple[Choice, int]:
    """Tune the network, leave it at the chosen step, and return what was chosen and how many steps were taken."""
    names = {entry.id: list(entry.names) for entry in site.classes.vocabulary.classes}
    sampler = VocabularySampler(encoder, manifest.prompt_templates, NUM_SEMANTIC_TOKENS, names, list(names))
    before, start = views.score(network, guard), tuned_state(network)
    with TemporaryDirectory() as folder:
        steps = tune(
            network, views.tuning, views.rehearsal, sampler, guard, request.options, Path(folder), request.seed, run
        )
    end = tuned_state(network)
    trials: dict[float, list[MaskScores]] = {}

    def choice_of(alphas: Sequence[float]) -> Choice:
        for alpha in alphas:
            interpolate(network, start, end, alpha)
            trials[alpha] = views.score(network, guard)
        return choose(before, trials, request.max_drop, is_guessed=site.is_guessed)

    choice = choice_of(ALPHAS)
    if refusal(choice, request.max_drop, is_guessed=site.is_guessed):
        choice = choice_of(SHORT_ALPHAS)
    interpolate(network, start, end, choice.alpha)
    return choice, steps


def _guard(network: SegmentationNetwork, encoder: TextEncoder, manifest: ModelManifest, classes: SiteClasses) -> Guard:
    device = network.head.logit_scale.device
    together, base = (
        vocabulary_tensors(vocabulary, encoder, manifest.prompt_templates).to(device)
        for vocabulary in (classes.vocabulary, classes.base)
    )
    return Guard(together, base, classes.new_numbers)


def _of_images(
    site: MaskedSite, rehearsal: PanopticDataset | None, views: AdaptViews, shown: tuple[Path, ...]
) -> dict[str, Any]:
    return {
        'images': len(site),
        'held_out_images': [path.name for path in shown] if views.is_held_out else [],
        'views': len(views.tuning),
        'masks_from': site.source,
        'masks': dict(site.counts),
        'masks_are_guessed': site.is_guessed,
        'rehearsal': None if rehearsal is None else str(rehearsal.path),
        'rehearsal_images': 0 if rehearsal is None else len(rehearsal),
        'base_measured_on': views.base_truth,
    }


def _of_choice(choice: Choice, classes: SiteClasses) -> dict[str, Any]:
    return {
        'alpha': choice.alpha,
        'alpha_of_parts': list(choice.of_parts),
        'before': _plain(choice.before, classes),
        'after': _plain(choice.after, classes),
        'base_drop': choice.after.base_drop(choice.before),
        'trials': {str(alpha): _plain(scores, classes) for alpha, scores in choice.trials.items()},
    }


def _plain(scores: MaskScores, classes: SiteClasses) -> dict[str, Any]:
    measured = {entry.name: scores.per_class[entry.id].share for entry in classes.new if entry.id in scores.per_class}
    return {
        'new': scores.new.share,
        'new_masks': scores.new.masks,
        'new_views': scores.new.views,
        'base': scores.base.share,
        'base_asked_together': scores.base_asked_together.share,
        'base_masks': scores.base.masks,
        'base_views': scores.base.views,
        'per_class': {name: share for name, share in measured.items() if share is not None},
    }

"""Makes the views that a model is tuned with, and those that it is measured on."""

from dataclasses import dataclass

import numpy as np

from fisa_ros.core.manifest import ModelManifest
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.site_images import part_of
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.training.adapt_choice import MIN_BASE_MASKS, in_parts, number_of_parts
from fisa_ros.training.adapt_site import MaskedSite, hold_out
from fisa_ros.training.batches import training_batches, validation_batches
from fisa_ros.training.frozen_views import FrozenView, Guard, freeze_views
from fisa_ros.training.mask_scores import MaskScores, count_base_masks, score_views, sure_views

_HELD_OUT_VIEWS = 2
_REHEARSAL_VIEWS = 4
_FREEZE_BATCH = 4
# A view of a large model takes some megabytes.
_MAX_VIEWS = 2000


@dataclass(frozen=True, slots=True)
class AdaptViews:
    """Views of the images.

    Attributes:
        tuning: Of the site, to tune with.
        rehearsal: Of other images, to tune with; may be empty.
        new_parts: In parts, what new classes are measured on.
        base_parts: In as many parts, what base classes are measured on.
        measured: Images of the site that are measured on, as indices.
        is_held_out: Whether these are kept out of the tuning.
        base_truth: What base classes are measured on, in words.
    """

    tuning: list[FrozenView]
    rehearsal: list[FrozenView]
    new_parts: list[list[FrozenView]]
    base_parts: list[list[FrozenView]]
    measured: list[int]
    is_held_out: bool
    base_truth: str

    def score(self, network: SegmentationNetwork, guard: Guard) -> list[MaskScores]:
        """Measure a network on each part."""
        scores = [score_views(network, part, guard) for part in self.new_parts]
        if self.base_parts is self.new_parts:
            return scores
        pairs = zip(scores, self.base_parts, strict=True)
        return [own.with_base_of(score_views(network, part, guard)) for own, part in pairs]


class ViewMaker:
    """Makes views with the frozen parts of a model.

    Args:
        network: The model before tuning.
        guard: What is new, and what must be kept.
        manifest: The model.
        views: Augmented views of each image of the site; fewer where they were more than 2000 in all.
        seed: Of all that is drawn.
    """

    def __init__(
        self, network: SegmentationNetwork, guard: Guard, manifest: ModelManifest, views: int, seed: int
    ) -> None:
        self.network, self.guard, self.views, self.seed = network, guard, views, seed
        self.size, self.resize = manifest.image_size_hw[0], manifest.resize
        self.rng = np.random.default_rng([seed, 7])

    def make(self, site: MaskedSite, rehearsal: PanopticDataset | None) -> AdaptViews:
        """Part the images into those to tune with and those to measure on, and make views of all."""
        tuned, held = hold_out(site.dataset, self.guard.new, self.seed)
        measured = held or tuned
        tuning = self._augmented(part_of(site.dataset, tuned), self.views)
        shown = part_of(site.dataset, measured)
        new_views = self._plain(shown) + self._augmented(shown, _HELD_OUT_VIEWS)
        rehearsed: list[FrozenView] = []
        if rehearsal is None:
            base_views, base_images, is_apart = new_views, len(measured), bool(held)
        else:
            rehearsed, base_views = self._halves(rehearsal)
            base_images, is_apart = len(base_views), len(rehearsal) > 1
        where = 'images kept out of the tuning' if is_apart else 'the images of the tuning themselves'
        base_truth = f'true masks of {where}'
        true_masks = count_base_masks(base_views, self.guard.new)
        if true_masks < MIN_BASE_MASKS:
            sure = sure_views(base_views, [entry.id for entry in site.classes.base.classes])
            if count_base_masks(sure, self.guard.new) > true_masks:
                base_views, base_truth = sure, f'what the model was sure of before, on {where}'
        parts = number_of_parts(len(measured), base_images)
        new_parts = in_parts(new_views, len(measured), parts)
        base_parts = new_parts if base_views is new_views else in_parts(base_views, base_images, parts)
        return AdaptViews(tuning, rehearsed, new_parts, base_parts, measured, bool(held), base_truth)

    def _augmented(self, dataset: PanopticDataset, views: int) -> list[FrozenView]:
        views = min(views, max(1, _MAX_VIEWS // len(dataset)))
        count = -(-len(dataset) * views // _FREEZE_BATCH)
        seed = int(self.rng.integers(2**31))
        batches = training_batches(dataset, self.size, _FREEZE_BATCH, seed, resize=self.resize)
        drawn = (batch for _, batch in zip(range(count), batches, strict=False))
        return freeze_views(self.network, drawn, self.guard, self.rng)

    def _plain(self, dataset: PanopticDataset) -> list[FrozenView]:
        batches = validation_batches(dataset, self.size, _FREEZE_BATCH, resize=self.resize)
        return freeze_views(self.network, batches, self.guard)

    def _halves(self, dataset: PanopticDataset) -> tuple[list[FrozenView], list[FrozenView]]:
        """Return views of one half of the images to tune with, and one of each of the others to measure on."""
        order = np.random.default_rng([self.seed, 8]).permutation(len(dataset)).tolist()
        held = order[: max(1, len(order) // 2)]
        used = order[len(held) :] or held
        return self._augmented(part_of(dataset, used), _REHEARSAL_VIEWS), self._plain(part_of(dataset, sorted(held)))

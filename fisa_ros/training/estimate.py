"""What training FISA will cost, counted on networks without weights: nothing is computed and no file is read."""

from collections.abc import Callable
from dataclasses import dataclass
import functools

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fisa_ros.core.errors import DataError
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS
from fisa_ros.networks.build import build_network
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.runtime.machine_peak import known_gpu_peak
from fisa_ros.training.batches import MASK_STRIDE
from fisa_ros.training.fisa_stage import FisaOptions
from fisa_ros.training.recipe import Recipe, parse_options
from fisa_ros.training.simo import apply_simo
from fisa_ros.training.stages import with_parts

GPUS = ('RTX 3090', 'RTX 4090', 'A100-SXM4-80GB', 'H100 80GB HBM3')
# Share of the data sheet's speed, a rule of thumb. An H100, the fastest, had 0.06 with fisa-s and 0.16 with fisa-l: the
# faster the GPU, the more it waits for images and for launches.
UTILISATION = 0.35
# A round number above the segments that an image of COCO has on average.
_TRUE_MASKS = 16
_CLASSES = 133
# The gradient and Adam's two averages.
_COPIES = 3


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """Cost of a recipe of stage fisa.

    Attributes:
        parameters: All parameters of the network.
        trained_parameters: Those that learn.
        generator_gflop: 10^9 operations of the generator for one image, forward.
        classifier_gflop: Those of the classifier for one image, forward and backward, by the share of predicted masks;
            with masks from a cache, all of an image.
        image_gflop: Those of one image in training, with the generator run in the steps that need it.
        fixed_mb: 10^6 bytes of weights, their gradients, the optimiser's and what autocast keeps of them.
        image_mb: 10^6 bytes of activations of one image that wait for the backward pass.
        images: Images of all steps.
    """

    parameters: int
    trained_parameters: int
    generator_gflop: float
    classifier_gflop: float
    image_gflop: float
    fixed_mb: float
    image_mb: float
    images: int

    def gpu_hours(self, gpu: str, *, is_cached: bool) -> float:
        """Return the hours of one of `GPUS` at `UTILISATION` of its data sheet."""
        peak = known_gpu_peak(gpu)
        assert peak is not None
        gflop = self.classifier_gflop if is_cached else self.image_gflop
        return self.images * gflop / (peak.gflops * UTILISATION) / 3600


def estimate_training(recipe: Recipe) -> TrainingEstimate:
    """Count the work and memory of a recipe of stage fisa.

    Raises:
        DataError: The recipe is of another stage, or its parts do not fit.
        ManifestError: A part cannot be built.
    """
    if recipe.stage != 'fisa':
        raise DataError(f'{recipe.where}: only stage fisa can be estimated, got {recipe.stage}')
    recipe, _ = with_parts(recipe)
    options = parse_options(FisaOptions, recipe.options, recipe.where)
    with torch.device('meta'):
        network = build_network(recipe.generator or {}, recipe.classifier or {}).eval()
    # On the CPU instead of meta, where attention and autocast are not those of real devices.
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device='cpu')
        trained = apply_simo(network, options.simo)
        size = recipe.phases[0].size
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            masks = network.generator(torch.empty(1, 3, size, size)).mask_logits.shape[1]
        generator = counter.get_total_flops()
        step = _ClassifierStep(network, size, recipe.precision != 'fp32')
        predicted, true = (_flop(functools.partial(step.run, 1, count)) for count in (masks, _TRUE_MASKS))
        one, two = (step.saved_bytes(images, masks) for images in (1, 2))
    parameters = list(network.parameters())
    share = options.predicted_share
    classifier = share * predicted + (1 - share) * true
    weight_bytes = 4 * (_numel(parameters) + _COPIES * _numel(trained))
    return TrainingEstimate(
        parameters=_numel(parameters),
        trained_parameters=_numel(trained),
        generator_gflop=generator / 1e9,
        classifier_gflop=classifier / 1e9,
        image_gflop=(classifier + share * generator) / 1e9,
        fixed_mb=(weight_bytes + max(0, 2 * one - two)) / 1e6,
        image_mb=(two - one) / 1e6,
        images=sum(phase.batch_size * phase.steps for phase in recipe.phases),
    )


class _ClassifierStep:
    """Forward and backward pass of the classifier, as the stage does them."""

    def __init__(self, network: SegmentationNetwork, size: int, is_mixed: bool) -> None:
        self.network, self.size, self.is_mixed = network, size, is_mixed

    def loss(self, images: int, masks: int) -> Tensor:
        dim = self.network.head.void_embedding.shape[0]
        side = self.size // MASK_STRIDE
        with torch.autocast('cpu', torch.bfloat16, enabled=self.is_mixed):
            encoded = self.network.trainable_tower.encode(
                self.network.at_tower_size(torch.empty(images, 3, self.size, self.size)),
                torch.empty(images, masks, side, side),
                torch.empty(NUM_SEMANTIC_TOKENS, dim),
                torch.ones(NUM_SEMANTIC_TOKENS, dtype=torch.bool),
            )
        scores = self.network.head.class_logits(
            encoded.mask_embeddings, torch.empty(_CLASSES, 1, dim), torch.ones(_CLASSES, 1, dtype=torch.bool)
        )
        return F.cross_entropy(scores.flatten(0, 1), torch.zeros(images * masks, dtype=torch.int64))

    def run(self, images: int, masks: int) -> None:
        self.loss(images, masks).backward()

    def saved_bytes(self, images: int, masks: int) -> int:
        """Return the size of all that autograd keeps for the backward pass, without the parameters."""
        owned = {entry.untyped_storage()._cdata for entry in self.network.parameters()}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage()._cdata not in owned:
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.loss(images, masks)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _flop(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _numel(parameters: list[nn.Parameter]) -> int:
    return sum(entry.numel() for entry in parameters)

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fisa_ros.core.errors import DataError
from fisa_ros.networks.build import build_network
from fisa_ros.runtime.machine_peak import known_gpu_peak
from fisa_ros.training.estimate import GPUS, UTILISATION, estimate_training
from fisa_ros.training.recipe import load_recipe
from fisa_ros.training.simo import apply_simo


def test_counts_are_those_of_a_network_that_runs():
    recipe = load_recipe('tiny-fisa')
    estimate = estimate_training(recipe)
    network = build_network(recipe.generator, recipe.classifier).eval()
    trained = apply_simo(network, recipe.options['simo'])
    assert estimate.parameters == sum(entry.numel() for entry in network.parameters())
    assert estimate.trained_parameters == sum(entry.numel() for entry in trained)
    assert estimate.images == 1600 * 8
    image, tokens = torch.rand(1, 3, 320, 320), torch.rand(32, 384)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network.generator(image).mask_logits
    assert estimate.generator_gflop == pytest.approx(counter.get_total_flops() / 1e9)
    flop = []
    for masks in (logits.shape[1], 16):
        with FlopCounterMode(display=False) as counter:
            encoded = network.tower.encode(image, logits[:, :1].expand(-1, masks, -1, -1), tokens, torch.ones(32) > 0)
            words = torch.rand(133, 1, 384), torch.ones(133, 1) > 0
            network.head.class_logits(encoded.mask_embeddings, *words).sum().backward()
        flop.append(counter.get_total_flops() / 1e9)
    assert estimate.classifier_gflop == pytest.approx(sum(flop) / 2)


def test_what_autograd_keeps_grows_with_the_batch():
    estimate = estimate_training(load_recipe('tiny-fisa'))
    assert 1 < estimate.image_mb < 100
    weights = 4 * estimate.parameters / 1e6
    assert weights < estimate.fixed_mb < 3 * weights


def test_fisa_s_trains_as_many_parameters_as_published_for_its_clip():
    estimate = estimate_training(load_recipe('coco-fisa-s'))
    # The queries are 7,087,104; the rest are SEVE and void.
    assert 7_087_104 < estimate.trained_parameters < 10_000_000
    assert estimate.image_gflop == pytest.approx(estimate.classifier_gflop + estimate.generator_gflop / 2)
    for gpu in GPUS:
        gflop = known_gpu_peak(gpu).gflops * UTILISATION * 3600 * estimate.gpu_hours(gpu, is_cached=True)
        assert gflop == pytest.approx(estimate.images * estimate.classifier_gflop)


def test_other_stages_are_refused():
    with pytest.raises(DataError, match='only stage fisa can be estimated, got clip'):
        estimate_training(load_recipe('tiny-clip'))

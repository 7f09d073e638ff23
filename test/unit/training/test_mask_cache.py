from dataclasses import asdict, replace
from hashlib import sha256
import json
import logging
import shutil

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file
import torch
from torch import nn

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.networks.build import build_generator, build_network
from fisa_ros.networks.mask_generator import MaskProposals
from fisa_ros.runtime.backend import SURE_LOGIT
from fisa_ros.training import mask_cache
from fisa_ros.training.batches import training_batches, validation_batches
from fisa_ros.training.fisa_stage import FisaOptions, name_predicted_masks, train_fisa
from fisa_ros.training.loop import load_trained
from fisa_ros.training.mask_cache import CacheKey, open_mask_cache
from fisa_ros.training.settings import Phase, RunSettings
from fisa_ros.training.square_images import cut_masks
from fisa_ros.training.vocabulary_sampler import VocabularySampler

from .small_fisa import SIZE, TINY_CLASSIFIER, TINY_GENERATOR

PAD = Resize('pad')
WHOLE = STRETCH.place((4, 4), (16, 16))


class HardMasks(nn.Module):
    """A generator whose logits say no more than the bits that a cache keeps."""

    def __init__(self):
        super().__init__()
        self.generator = build_generator(TINY_GENERATOR)

    def forward(self, image):
        logits, objectness = self.generator(image)
        # Half of each image: the masks of random weights are all or nothing.
        return MaskProposals(torch.where(logits > logits.mean((2, 3), True), SURE_LOGIT, -SURE_LOGIT), objectness)


class Letters:
    """Encodes a sentence by its letters."""

    def encode(self, sentences):
        rows = [[sentence.count(chr(97 + letter)) + 0.1 for letter in range(16)] for sentence in sentences]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


@pytest.fixture
def generator():
    torch.manual_seed(3)
    return HardMasks().eval().requires_grad_(False)


@pytest.fixture
def kept(toy_dataset, generator, tmp_path):
    return open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, STRETCH, 4, 'fp32')


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*.safetensors'))}


def test_kept_masks_are_the_generators_best(toy_dataset, generator, kept):
    # The same batch as the cache has made, for the very same numbers.
    (batch,) = validation_batches(toy_dataset, SIZE, 8)
    for index, logits, objectness in zip(batch.indices, *generator(batch.images), strict=True):
        best = objectness.argsort(descending=True, stable=True)[:4]
        assert np.array_equal(kept.masks(index), (logits[best] > 0).numpy())
        assert 0 < kept.masks(index).mean() < 1


def test_masks_on_objects_have_the_names_that_the_generator_would_get(toy_dataset, generator, kept):
    for batch in validation_batches(toy_dataset, SIZE, 2):
        logits, objectness = generator(batch.images)
        best = objectness.argsort(dim=1, descending=True, stable=True)[:, :4]
        wanted = name_predicted_masks(logits, batch).gather(1, best)
        masks = torch.stack([torch.from_numpy(kept.masks(index)) for index in batch.indices])
        assert torch.equal(name_predicted_masks((2 * masks.float() - 1) * SURE_LOGIT, batch), wanted)


def test_training_from_the_cache_is_training_with_the_generator_where_nothing_is_augmented(
    toy_dataset, generator, tmp_path
):
    names = {3: ['floor'], 7: ['chair'], 9: ['ball']}
    states = []
    for cache in (None, tmp_path / 'cache'):
        torch.manual_seed(1)
        network = build_network(TINY_GENERATOR, TINY_CLASSIFIER)
        network.generator = generator
        sampler = VocabularySampler(Letters(), ['{}'], 4, names, list(names))
        # All masks, in the order of their objectness or not: each is a mask of its own.
        options = FisaOptions(predicted_share=1.0, kept_masks=6, is_augmented=False)
        run = RunSettings(threads=1, mask_cache=cache)
        folder = tmp_path / str(cache is None)
        train_fisa(
            network, sampler, [], toy_dataset, toy_dataset, [Phase(SIZE, 2, 4, 1e-2)], folder, 5, options, run, STRETCH
        )  # fmt: skip
        states.append(load_trained(folder))
    start = build_network(TINY_GENERATOR, TINY_CLASSIFIER)
    moved = states[0]['network.head.void_embedding'] - start.head.void_embedding
    assert moved.abs().max() > 1e-3
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=2e-5, rtol=0, msg=name)


def test_too_little_memory_for_masks_says_what_to_do(toy_dataset, generator, tmp_path):
    def overfull(*_):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    names = {3: ['floor'], 7: ['chair'], 9: ['ball']}
    network = build_network(TINY_GENERATOR, TINY_CLASSIFIER)
    network.generator.register_forward_pre_hook(overfull)
    sampler = VocabularySampler(Letters(), ['{}'], 4, names, list(names))
    run = RunSettings(threads=1, accumulate=4, mask_cache=tmp_path / 'cache')
    with pytest.raises(DataError, match=r'out of memory on .* while masks are made: take --accumulate 8, ') as raised:
        train_fisa(
            network, sampler, [], toy_dataset, toy_dataset, [Phase(SIZE, 8, 4, 1e-2)], tmp_path, 5, FisaOptions(), run,
            STRETCH,
        )  # fmt: skip
    # Steps without it would need more.
    assert '--cache-masks' not in str(raised.value)


def test_what_lets_steps_fit_the_memory_lets_masks_be_made(toy_dataset, tmp_path):
    names = {3: ['floor'], 7: ['chair'], 9: ['ball']}
    network = build_network(TINY_GENERATOR, TINY_CLASSIFIER)
    seen = []
    network.generator.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    sampler = VocabularySampler(Letters(), ['{}'], 4, names, list(names))
    run = RunSettings(threads=1, accumulate=2, mask_cache=tmp_path / 'cache')
    train_fisa(
        network, sampler, [], toy_dataset, toy_dataset, [Phase(SIZE, 4, 1, 1e-2)], tmp_path, 5, FisaOptions(), run,
        STRETCH,
    )  # fmt: skip
    assert max(seen) == 2 < len(toy_dataset)


@pytest.mark.parametrize('predicted_share', [1.0, 0.0])
def test_masks_are_kept_where_that_saves_memory(toy_dataset, tmp_path, monkeypatch, predicted_share):
    def overfull(*_):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    names = {3: ['floor'], 7: ['chair'], 9: ['ball']}
    network = build_network(TINY_GENERATOR, TINY_CLASSIFIER)
    monkeypatch.setattr(network, 'at_tower_size', overfull)
    sampler = VocabularySampler(Letters(), ['{}'], 4, names, list(names))
    options, phases = FisaOptions(predicted_share=predicted_share), [Phase(SIZE, 2, 4, 1e-2)]
    with pytest.raises(DataError, match=r'at step 0: .*take --accumulate 2, ') as raised:
        train_fisa(
            network, sampler, [], toy_dataset, toy_dataset, phases, tmp_path, 5, options, RunSettings(threads=1),
            STRETCH,
        )  # fmt: skip
    assert ('keep the masks with --cache-masks' in str(raised.value)) == bool(predicted_share)


class TrueMasks:
    """Keeps the true masks of each image as it is, in the order of the categories."""

    def __init__(self, dataset, size, resize):
        self.kept = {}
        for batch in validation_batches(dataset, size, 1, resize=resize):
            masks = dict(zip(batch.categories[0].tolist(), batch.masks[0], strict=True))
            nothing = torch.zeros(size // 4, size // 4)
            stacked = torch.stack([masks.get(category, nothing) for category in (3, 7, 9)])
            self.kept[batch.indices[0]] = (stacked > 0.5).to(torch.uint8).numpy()

    def masks(self, index):
        return self.kept[index]


@pytest.mark.parametrize('resize', [STRETCH, PAD])
def test_masks_are_cut_and_flipped_with_their_image(toy_dataset, resize):
    size = 256
    kept = TrueMasks(toy_dataset, size, resize)
    batches = training_batches(toy_dataset, size, 8, seed=2, kept_masks=kept, resize=resize)
    assert next(training_batches(toy_dataset, size, 8, seed=2)).proposals is None
    compared = 0
    for _ in range(3):
        batch = next(batches)
        assert batch.proposals.shape == (8, 3, size // 4, size // 4)
        assert torch.equal(batch.shown(batch.proposals > 0), batch.proposals > 0)
        for masks, categories, proposals in zip(batch.masks, batch.categories, batch.proposals, strict=True):
            for mask, category in zip(masks > 0.5, categories.tolist(), strict=True):
                proposal = proposals[(3, 7, 9).index(category)] > 0
                if mask.sum() > 100:
                    assert (mask & proposal).sum() / (mask | proposal).sum() > 0.8
                    compared += 1
    assert compared > 40


@pytest.mark.parametrize('is_augmented', [True, False])
def test_no_batch_has_kept_masks_in_the_padding(toy_dataset, is_augmented):
    class Everywhere:
        def masks(self, _):
            return np.ones((2, SIZE // 4, SIZE // 4), np.uint8)

    source = training_batches(
        toy_dataset, SIZE, 8, seed=2, kept_masks=Everywhere(), is_augmented=is_augmented, resize=PAD
    )
    batch = next(source)
    assert not batch.is_shown.all()
    assert torch.equal(batch.proposals > 0, batch.is_shown[:, None].expand(8, 2, SIZE // 4, SIZE // 4))


def test_a_window_of_masks():
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[0, 1, 2] = 1
    masks[1, :2] = 1
    assert np.array_equal(cut_masks(masks, (0, 0, 1, 1), False, WHOLE, WHOLE).numpy(), masks)
    assert np.array_equal(cut_masks(masks, (0, 0, 1, 1), True, WHOLE, WHOLE).numpy(), masks[:, :, ::-1])
    quarter = cut_masks(masks, (0, 0.5, 0.5, 0.5), False, WHOLE, WHOLE)
    # Each cell of the upper right quarter becomes two by two.
    assert quarter[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert quarter[1].tolist() == [[1] * 4] * 4
    assert cut_masks(masks, (0, 0.5, 0.5, 0.5), True, WHOLE, WHOLE)[0].tolist()[2] == [0, 0, 1, 1]


def test_a_window_of_masks_of_a_padded_image():
    # An image of 8 x 16 takes the two upper rows.
    whole = PAD.place((8, 16), (16, 16))
    masks = np.zeros((1, 4, 4), np.uint8)
    masks[0, 1, 2] = 1
    masks[0, 3] = 1
    right = cut_masks(masks, (0, 0.5, 1, 0.5), False, whole, PAD.place((8, 8), (16, 16)))
    assert right[0].tolist() == [[0] * 4, [0] * 4, [1, 1, 0, 0], [1, 1, 0, 0]]
    below = cut_masks(masks, (0.5, 0, 0.5, 1), False, whole, PAD.place((4, 16), (16, 16)))
    assert below[0].tolist() == [[0, 0, 1, 0], [0] * 4, [0] * 4, [0] * 4]
    flipped = cut_masks(masks, (0.5, 0, 0.5, 1), True, whole, PAD.place((4, 16), (16, 16)))
    assert flipped[0].tolist() == [[0, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    # A window of 8 x 4 takes two columns of four, which are turned round among themselves.
    narrow = cut_masks(masks, (0, 0.5, 1, 0.25), True, whole, PAD.place((8, 4), (16, 16)))
    assert narrow[0].tolist() == [[0] * 4, [0] * 4, [1, 1, 0, 0], [1, 1, 0, 0]]
    edge = cut_masks(masks, (0, 0.375, 1, 0.25), True, whole, PAD.place((8, 4), (16, 16)))
    assert edge[0].tolist() == [[0] * 4, [0] * 4, [1, 0, 0, 0], [1, 0, 0, 0]]


def test_what_is_there_is_not_made_again(toy_dataset, generator, kept, tmp_path, monkeypatch):
    before = files(tmp_path)
    assert before
    monkeypatch.setattr(mask_cache, 'write_atomically', lambda *_: pytest.fail('written again'))
    open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, STRETCH, 4, 'fp32')
    assert files(tmp_path) == before


def test_an_interrupted_cache_is_completed(toy_dataset, generator, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mask_cache, '_SHARD_IMAGES', 2)
    caplog.set_level(logging.INFO, 'fisa_ros.training')

    def opened():
        return open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, STRETCH, 4, 'fp32')

    cache = opened()
    assert 'masks of 6 images go to' in caplog.text
    whole = [cache.masks(index) for index in range(6)]
    names = sorted(path.name for path in files(tmp_path))
    assert names == ['masks_00000.safetensors', 'masks_00001.safetensors', 'masks_00002.safetensors']
    first, second, third = files(tmp_path)
    second.unlink()
    content = third.read_bytes()
    third.write_bytes(content[: len(content) // 2])
    kept_time = first.stat().st_mtime_ns
    caplog.clear()
    again = opened()
    assert 'masks of 4 images go to' in caplog.text
    assert first.stat().st_mtime_ns == kept_time
    assert all(np.array_equal(again.masks(index), masks) for index, masks in enumerate(whole))


def test_other_weights_sizes_and_numbers_have_files_of_their_own(toy_dataset, generator, kept, tmp_path):
    other = HardMasks().eval()
    open_mask_cache(tmp_path / 'cache', other, toy_dataset, SIZE, STRETCH, 4, 'fp32')
    open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, STRETCH, 3, 'fp32')
    open_mask_cache(tmp_path / 'cache', generator, toy_dataset, 2 * SIZE, STRETCH, 4, 'fp32')
    open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, STRETCH, 4, 'bf16')
    open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, PAD, 4, 'fp32')
    open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, Resize('pad', (9, 9, 9)), 4, 'fp32')
    fewer = replace(toy_dataset, records=toy_dataset.records[:3])
    open_mask_cache(tmp_path / 'cache', generator, fewer, SIZE, STRETCH, 4, 'fp32')
    assert len(list((tmp_path / 'cache').iterdir())) == 8


def test_caches_of_stretched_images_outlive_that_there_are_others():
    key = CacheKey('generator', SIZE, STRETCH, 4, 'fp32', 'truth', 'images', 256)
    parts = {name: value for name, value in asdict(key).items() if name != 'resize'}
    assert key.digest == sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def test_other_images_with_the_same_ids_have_masks_of_their_own(toy_dataset, toy_data, generator, kept, tmp_path):
    copy = shutil.copytree(toy_data, tmp_path / 'copy')
    annotations = copy / 'annotations' / 'panoptic_train.json'

    def opened(folder):
        dataset = PanopticDataset.open(copy / 'train', annotations)
        return open_mask_cache(folder, generator, dataset, SIZE, STRETCH, 4, 'fp32')

    assert opened(tmp_path / 'cache')._folder == kept._folder
    for image in (copy / 'train').iterdir():
        cv2.imwrite(str(image), np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8))
    other = opened(tmp_path / 'cache')
    fresh = opened(tmp_path / 'fresh')
    assert all(np.array_equal(other.masks(index), fresh.masks(index)) for index in range(6))
    assert not np.array_equal(other.masks(0), kept.masks(0))
    annotations.write_text(annotations.read_text() + ' ')
    assert opened(tmp_path / 'cache')._folder not in (other._folder, kept._folder)


def test_damaged_files_are_named(toy_dataset, generator, kept, tmp_path):
    (path,) = files(tmp_path)
    packed = load_file(path)['2'].tobytes()
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 1
    path.write_bytes(path.read_bytes().replace(packed, damaged))
    cache = open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, STRETCH, 4, 'fp32')
    with pytest.raises(DataError, match=r'masks_00000\.safetensors is damaged at image 2 \(.*delete it, the next run'):
        cache.masks(2)


class OverflowingMasks(nn.Module):
    """A generator that overflows on bright images."""

    def __init__(self, generator, limit):
        super().__init__()
        self.generator, self.limit = generator, limit

    def forward(self, image):
        logits, objectness = self.generator(image)
        is_bright = image.mean((1, 2, 3)) >= self.limit
        return MaskProposals(torch.where(is_bright[:, None, None, None], torch.nan, logits), objectness)


def test_masks_that_are_not_a_number_are_refused(toy_dataset, generator, tmp_path):
    (batch,) = validation_batches(toy_dataset, SIZE, 8)
    means = batch.images.mean((1, 2, 3))
    worst = toy_dataset.records[int(means.argmax())].image_id
    overflowing = OverflowingMasks(generator, means.max() - 1e-6)
    with pytest.raises(DataError, match=rf'image {worst} are not a number in torch.float32: set precision fp32'):
        open_mask_cache(tmp_path / 'cache', overflowing, toy_dataset, SIZE, STRETCH, 4, 'fp32')
    assert not files(tmp_path)


def test_a_disk_that_is_too_small_is_named_before(toy_dataset, generator, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(mask_cache.shutil, 'disk_usage', lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match='has 0 MB free, the masks need about'):
        open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, STRETCH, 4, 'fp32')
    assert not files(tmp_path)


def test_kept_masks_of_a_padded_image_are_those_of_a_padded_image(toy_dataset, generator, tmp_path):
    kept = open_mask_cache(tmp_path / 'cache', generator, toy_dataset, SIZE, PAD, 4, 'fp32')
    (batch,) = validation_batches(toy_dataset, SIZE, 8, resize=PAD)
    for index, logits, objectness in zip(batch.indices, *generator(batch.images), strict=True):
        best = objectness.argsort(descending=True, stable=True)[:4]
        assert np.array_equal(kept.masks(index), (logits[best] > 0).numpy())

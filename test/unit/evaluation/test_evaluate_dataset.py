from dataclasses import replace
import os
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import Resize
from fisa_ros.core.stop_signals import noted_signals
from fisa_ros.datasets.coco_panoptic import DatasetCategory, PanopticDataset
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.evaluate_dataset import evaluate_dataset
from fisa_ros.pipeline.segmenter import Segmenter


def evaluated(meadow, files, vocabularies=None, **options):
    vocabularies = vocabularies or {'names': meadow.categories.vocabulary}
    thresholds = meadow.segmenter.default_thresholds
    dataset = PanopticDataset.open(*files)
    return evaluate_dataset(meadow.segmenter, dataset, meadow.categories, vocabularies, thresholds, **options)


def test_each_image_is_scored_in_each_vocabulary(meadow, meadow_files, tmp_path):
    synonyms = tmp_path / 'synonyms.yaml'
    synonyms.write_text('{cat: {training: [dog]}, dog: {training: [cat]}, grass: {training: [grass]}}')
    vocabularies = {kind: meadow.categories.words(kind, synonyms) for kind in ('names', 'training')}
    evaluation = evaluated(meadow, meadow_files, vocabularies)
    assert evaluation.images == 2
    assert evaluation.seconds > 0
    assert meadow.segmenter.backend.proposed_images == 2
    summaries = {kind: scorer.summary() for kind, scorer in evaluation.scorers.items()}
    assert summaries['names']['per_class']['cat']['pq'] == pytest.approx(1 / 2)
    # The words are swapped: now all is a dog.
    assert summaries['training']['per_class']['dog']['pq'] == pytest.approx(1 / 1.5)
    assert summaries['training']['per_class']['cat']['pq'] == 0
    assert evaluation.void_check is None


def test_removed_words(meadow, meadow_files, monkeypatch):
    classes = meadow.categories.vocabulary.classes
    parts = [replace(meadow.categories.vocabulary, classes=part) for part in (classes[::2], classes[1:2])]
    monkeypatch.setattr('fisa_ros.evaluation.evaluate_dataset.halves', lambda vocabulary: parts)
    evaluation = evaluated(meadow, meadow_files, removed_words_of=meadow.categories.vocabulary)
    # Without the dog its 4 cells are called a cat. Without cat and grass all cells are rather void than a dog.
    check = evaluation.void_check
    assert check.pixels == 2 * 256
    assert check.mislabelled_pixels == 2 * 4 * 16
    assert evaluation.scorers['names'].summary()['pq'] == pytest.approx(1 / 2)


def test_limits(meadow, meadow_files):
    assert evaluated(meadow, meadow_files, limit=1).images == 1
    assert evaluated(meadow, meadow_files, limit=9).images == 2
    with pytest.raises(DataError, match='--limit must be at least 1, got 0'):
        evaluated(meadow, meadow_files, limit=0)


def test_a_signal_ends_it_after_the_image_at_hand(meadow, meadow_files, monkeypatch):
    propose = meadow.segmenter.backend.propose_masks

    def interrupt(image):
        os.kill(os.getpid(), signal.SIGINT)
        return propose(image)

    monkeypatch.setattr(meadow.segmenter.backend, 'propose_masks', interrupt)
    with noted_signals() as received:
        evaluation = evaluated(meadow, meadow_files, received=received)
    assert (evaluation.images, evaluation.is_interrupted) == (1, True)
    assert evaluation.scorers['names'].summary()['per_class']['cat']['masks'] == 1


def test_a_signal_during_the_last_image_is_not_lost(meadow, meadow_files, monkeypatch):
    propose, received = meadow.segmenter.backend.propose_masks, []
    monkeypatch.setattr(
        meadow.segmenter.backend, 'propose_masks', lambda image: received.append(signal.SIGTERM) or propose(image)
    )
    evaluation = evaluated(meadow, meadow_files, limit=1, received=received)
    assert (evaluation.images, evaluation.is_interrupted) == (1, True)


def test_a_signal_while_words_are_encoded_ends_it_before_the_first_image(meadow, meadow_files):
    evaluation = evaluated(meadow, meadow_files, received=[signal.SIGINT])
    assert (evaluation.images, evaluation.is_interrupted) == (0, True)
    assert meadow.segmenter.backend.proposed_images == 0
    summary = evaluation.scorers['names'].summary()
    assert {summary[key] for key in ('pq', 'miou', 'ap', 'mask_accuracy', 'ece_masks')} == {None}


def test_no_images(meadow, write_panoptic):
    files = write_panoptic([(10, 'cat', True)], [])
    with pytest.raises(DataError, match='has no images'):
        evaluated(meadow, files)


def test_a_broken_image_is_named(meadow, meadow_files):
    broken = meadow_files[0] / '1.png'
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError, match=r'1\.png'):
        evaluated(meadow, meadow_files)


def test_an_image_of_another_size_is_named(meadow, meadow_files):
    cv2.imwrite(str(meadow_files[0] / '1.png'), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r'1\.png is 8x8'):
        evaluated(meadow, meadow_files)


@pytest.mark.parametrize('oracle', [None, 'masks', 'classes'])
def test_a_model_that_is_right_about_a_padded_image_has_full_marks(wide_meadow, oracle):
    meadow, files = wide_meadow
    evaluation = evaluated(meadow, files, oracle=oracle)
    summary = evaluation.scorers['names'].summary()
    names = ('pq', 'pq_class_agnostic', 'miou', 'pixel_accuracy', 'ap', 'mask_accuracy')
    assert {name: summary[name] for name in names} == dict.fromkeys(names, pytest.approx(1.0))
    # Where masks are scaled before they meet, corners of cells as large as these are rounded.
    assert summary['miou_semantic'] > 0.95
    assert summary['ap_instances'] > 0.9
    assert summary['ap50_instances'] == pytest.approx(1.0)


def test_colours_of_a_padded_image_have_full_marks(color_backend, color_manifest, write_panoptic):
    segmenter = Segmenter(color_backend, replace(color_manifest, resize=Resize('pad')))
    # Two pixels of the image are one of the input: 32 x 128 of 48 x 64 are 16 rows.
    image, pixels = np.full((32, 128, 3), (0, 255, 0), np.uint8), np.ones((32, 128), np.int32)
    image[4:20, 10:50], pixels[4:20, 10:50] = (255, 0, 0), 2
    image[22:32, 100:128], pixels[22:32, 100:128] = (0, 0, 255), 3
    kinds = [(1, 'green', False), (2, 'red flag', True), (3, 'blue flag', True)]
    files = write_panoptic(kinds, [(image, pixels, {1: 1, 2: 2, 3: 3})])
    categories = CategoryMap.from_names([DatasetCategory(*kind) for kind in kinds])
    meadow = SimpleNamespace(segmenter=segmenter, categories=categories)
    assert evaluated(meadow, files).scorers['names'].summary()['pq'] == 1.0

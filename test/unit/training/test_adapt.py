from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fisa_ros.core.errors import DataError
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import ImageRecord, PanopticDataset, SegmentInfo
from fisa_ros.training import adapt
from fisa_ros.training.adapt import AdaptRequest
from fisa_ros.training.adapt_site import hold_out, open_for_adapting
from fisa_ros.training.settings import RunSettings


@pytest.mark.parametrize('seed', range(6))
def test_what_one_image_alone_shows_is_tuned_with(seed):
    shown = [(1, 5), (5,), (5, 6), (5,), (1,)]
    records = [
        ImageRecord(
            index, Path(f'{index}.png'), Path(f'{index}_map.png'), (8, 8),
            tuple(SegmentInfo(number, number, False) for number in numbers),
        )
        for index, numbers in enumerate(shown)
    ]  # fmt: skip
    tuned, held = hold_out(PanopticDataset(Path('site'), {}, records), frozenset({5, 6}), seed)
    assert len(held) == 1
    # Not the one with class 6, nor the one without a new class.
    assert held[0] in (0, 1, 3)
    assert sorted(tuned + held) == [0, 1, 2, 3, 4]


def test_a_file_beside_an_image_says_which_names_it_may_show(tmp_path):
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((32, 32, 3), np.uint8))
    (tmp_path / 'a.txt').write_text('forklift\nwall\n')
    site = open_for_adapting(tmp_path, None, ('forklift, lift truck', 'tire'), VocabularyRequest.parse('floor; wall'))
    forklift, tire = (site.classes.number_of(name) for name in ('forklift', 'tire'))
    assert site.classes.new_numbers == {forklift, tire}
    assert site.allowed == ({forklift}, {forklift, tire})


def test_a_bad_name_in_a_file_names_the_file(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((32, 32, 3), np.uint8))
    (tmp_path / 'a.txt').write_text('forklift; ???\n')
    base = VocabularyRequest.parse('floor; wall')
    with pytest.raises(DataError, match=r"a.txt: name '\?\?\?' has no letter or digit"):
        open_for_adapting(tmp_path, None, (), base)
    (tmp_path / 'a.txt').write_text('wall; floor\n')
    with pytest.raises(DataError, match='name base classes alone, nothing new'):
        open_for_adapting(tmp_path, None, (), base)


def full_gpu(*_):
    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')


@pytest.mark.parametrize(
    ('fail', 'text'),
    [
        (full_gpu, 'while fisa-l is adapted: .* smaller model, .* CUDA_VISIBLE_DEVICES .*Tried to allocate'),
        (lambda *_: torch.empty(1 << 55), 'fisa-l and its views do not fit .* this machine: take fewer --views'),
        (lambda *_: np.empty(1 << 55), 'fisa-l and its views do not fit .* this machine: take fewer --views'),
    ],
)
def test_too_little_memory_names_what_can_be_done(tmp_path, monkeypatch, fail, text):
    monkeypatch.setattr(adapt, '_adapt', fail)
    request = AdaptRequest('fisa-l', tmp_path, VocabularyRequest.parse('floor; wall'), tmp_path, 'site')
    with pytest.raises(DataError, match=text):
        adapt.adapt(request, RunSettings())

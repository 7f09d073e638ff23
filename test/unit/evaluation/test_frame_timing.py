from dataclasses import replace

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import ImageError
from fisa_ros.core.placement import Resize
from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.evaluation.frame_files import read_frames
from fisa_ros.evaluation.frame_timing import FrameTimer, in_turn, label_agreement
from fisa_ros.pipeline.segmenter import Segmenter


class Messages:
    def __init__(self, frames):
        self.frames, self.calls = frames, []

    def decode(self, number):
        self.calls.append(('decode', number))
        return self.frames[number]

    def write(self, number, result):
        self.calls.append(('write', number, len(result.segments)))


@pytest.fixture
def segmenter(color_backend, color_manifest):
    return Segmenter(color_backend, color_manifest)


def test_rounds_alternate_and_share_their_frame():
    calls = []
    runs = [lambda number, name=name: calls.append((name, number)) or f'{name}{number}' for name in 'abc']
    assert list(in_turn(runs, 2)) == [['a0', 'b0', 'c0'], ['a1', 'b1', 'c1']]
    assert calls == [('a', 0), ('b', 0), ('c', 0), ('a', 1), ('b', 1), ('c', 1)]


def test_stages_follow_each_other_and_fit_in_the_total(segmenter, color_vocabulary, flags):
    frames = [flags, np.zeros_like(flags)]
    messages = Messages(frames)
    state = segmenter.prepare(color_vocabulary)
    runner = FrameTimer(segmenter, state, frames, messages)
    for index in (0, 1, 2):
        timing, result = runner.run(index)
        expected = segmenter.segment(frames[index % 2], state)
        np.testing.assert_array_equal(result.panoptic_map, expected.panoptic_map)
        assert list(timing.stages_ms) == ['decode', 'resize', 'networks', 'segments', 'messages']
        assert all(value >= 0 for value in timing.stages_ms.values())
        assert 0 < timing.networks_ms < sum(timing.stages_ms.values()) <= timing.total_ms
    assert messages.calls[:2] == [('decode', 0), ('write', 0, len(segmenter.segment(flags, state).segments))]
    assert [call[1] for call in messages.calls[::2]] == [0, 1, 0]


def test_stages_of_the_back_end_take_its_place(segmenter, color_vocabulary, flags, monkeypatch):
    backend = segmenter.backend
    stages = {'upload': 0.0, 'encoder': 1e-6, 'merge': 3e-6, 'head': 2e-6}
    segment_timed = lambda *arguments: (backend.segment(*arguments), stages)  # noqa: E731
    monkeypatch.setattr(backend, 'segment_timed', segment_timed, raising=False)
    timing, _ = FrameTimer(segmenter, segmenter.prepare(color_vocabulary), [flags]).run(0)
    assert list(timing.stages_ms) == ['resize', 'upload', 'encoder', 'merge', 'head', 'segments']
    assert timing.networks_ms == pytest.approx(3e-6)


def test_a_settling_frame_comes_before_each(segmenter, color_vocabulary, flags):
    messages = Messages([flags])
    FrameTimer(segmenter, segmenter.prepare(color_vocabulary), [flags], messages, settles=True).run(0)
    assert [call[0] for call in messages.calls] == ['decode', 'write'] * 2


def result_of(class_map, names):
    ids = [value for value in np.unique(class_map).tolist() if value]
    segments = [
        Segment(row + 1, value, names[value], True, 0.5, int((class_map == value).sum()), (0, 0, 1, 1))
        for row, value in enumerate(ids)
    ]
    table = np.zeros(10, np.uint16)
    table[ids] = np.arange(1, len(ids) + 1)
    return PanopticResult(table[class_map], tuple(segments), 1)


def test_labels_agree_by_name_whatever_their_ids():
    first = result_of(np.array([[1, 1], [2, 0]]), {1: 'cat', 2: 'dog'})
    assert label_agreement(first, first) == 1.0
    assert label_agreement(first, result_of(np.array([[7, 7], [1, 0]]), {7: 'cat', 1: 'dog'})) == 1.0
    assert label_agreement(first, result_of(np.array([[1, 2], [2, 2]]), {1: 'cat', 2: 'dog'})) == 0.5
    assert label_agreement(first, result_of(np.array([[1, 1], [2, 0]]), {1: 'dog', 2: 'cow'})) == 0.25
    assert label_agreement(first, PanopticResult.empty((2, 2), 1)) == 0.25


def test_frames_are_read_in_order_and_scaled(tmp_path, flags):
    with pytest.raises(ImageError, match=r'has 0 images \(\.jpg, \.jpeg, \.png\), at least 1 are needed'):
        read_frames(tmp_path, (80, 60))
    cv2.imwrite(str(tmp_path / 'b.png'), np.ascontiguousarray(flags[..., ::-1]))
    cv2.imwrite(str(tmp_path / 'a.PNG'), np.zeros_like(flags))
    first, second = read_frames(tmp_path, (80, 60))
    assert not first.any()
    assert second.shape == (60, 80, 3)
    assert second[1, 1].tolist() == [0, 255, 0]
    (tmp_path / 'c.jpg').write_bytes(b'no image')
    with pytest.raises(ImageError, match=r'c\.jpg is not an image that can be read'):
        read_frames(tmp_path, (80, 60))


def test_padded_frames(segmenter, color_vocabulary, flags, tmp_path):
    wide = np.ascontiguousarray(flags[:60])
    segmenter = Segmenter(segmenter.backend, replace(segmenter.manifest, resize=Resize('pad')))
    state = segmenter.prepare(color_vocabulary)
    _, result = FrameTimer(segmenter, state, [wide]).run(0)
    np.testing.assert_array_equal(result.panoptic_map, segmenter.segment(wide, state).panoptic_map)
    cv2.imwrite(str(tmp_path / 'a.png'), np.ascontiguousarray(wide[..., ::-1]))
    (frame,) = read_frames(tmp_path, (80, 60), resize=Resize('pad'))
    assert frame.shape == (60, 80, 3)
    assert frame[:30].any(2).all()
    assert not frame[30:].any()


def test_padding_takes_nothing_from_a_timed_frame(wide_meadow):
    meadow, _ = wide_meadow
    state = meadow.segmenter.prepare(meadow.categories.vocabulary)
    _, result = FrameTimer(meadow.segmenter, state, [meadow.image]).run(0)
    assert {segment.class_name for segment in result.segments} == {'cat', 'dog', 'grass'}
    assert (result.panoptic_map > 0).all()

import json

import numpy as np
import onnxruntime
import pytest

from fisa_ros.core.errors import BuildCancelledError, GraphsError
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.parity_gate import ParityGate, ParityVerdict
from fisa_ros.runtime.tensorrt_start import TensorRtToolkit

from .engine_samples import sample_reference

OUTPUTS = ('mask_logits', 'mask_embeddings', 'objectness', 'query_map', 'class_index', 'score')


def judge(change=lambda outputs, frame: None, reference=None):
    """Judge graphs that give the reference, changed for each frame."""
    reference = reference or sample_reference()
    gate = ParityGate(reference)
    images = [image.tobytes() for image in reference['image']]

    def run(inputs):
        frame = images.index(inputs['image'].tobytes())
        outputs = {name: reference[name][frame].copy() for name in OUTPUTS}
        change(outputs, frame)
        return outputs

    return gate.judge(run)


def values(verdict):
    return {check.name: check.value for check in verdict.checks}


def test_the_reference_itself_passes():
    verdict = judge()
    assert verdict.passed
    assert (verdict.num_frames, verdict.num_masks, verdict.broken_outputs) == (3, 9, 0)
    assert values(verdict) == pytest.approx({'cosine': 1.0, 'label agreement': 1.0, 'mask IoU': 1.0})
    assert verdict.describe() == (
        'parity passed: cosine 1 (at least 0.999), label agreement 1 (at least 0.99), mask IoU 1 (at least 0.98); '
        '9 masks of 3 frames, worst frame 0'
    )


def test_graphs_get_the_inputs_of_the_reference():
    reference, seen = sample_reference(), []
    ParityGate(reference).judge(
        lambda inputs: seen.append(inputs) or {name: reference[name][len(seen) - 1] for name in OUTPUTS}
    )
    assert len(seen) == 3
    for frame, inputs in enumerate(seen):
        assert set(inputs) == {
            'image', 'semantic_tokens', 'token_mask', 'text_embeddings', 'synonym_mask', 'is_thing', 'thresholds',
        }  # fmt: skip
        np.testing.assert_array_equal(inputs['image'], reference['image'][frame])
        np.testing.assert_array_equal(inputs['text_embeddings'], reference['text_embeddings'])


def turned(degrees):
    """Turn one embedding by an angle."""

    def change(outputs, frame):
        if frame == 1:
            row = outputs['mask_embeddings'][3].astype(np.float64)
            other = np.roll(row, 1) - row * (np.roll(row, 1) @ row)
            other /= np.linalg.norm(other)
            angle = np.radians(degrees)
            outputs['mask_embeddings'][3] = np.cos(angle) * row + np.sin(angle) * other

    return change


@pytest.mark.parametrize(('degrees', 'passed'), [(2.5, True), (2.6, False), (90, False), (180, False)])
def test_one_turned_embedding_decides(degrees, passed):
    verdict = judge(turned(degrees))
    assert verdict.passed is passed
    assert values(verdict)['cosine'] == pytest.approx(np.cos(np.radians(degrees)), abs=1e-6)


@pytest.mark.parametrize(('num_turned', 'passed'), [(1, True), (2, False)])
def test_one_of_a_hundred_embeddings_may_turn(num_turned, passed):
    def change(outputs, frame):
        if frame == 0:
            outputs['mask_embeddings'][-num_turned:] *= -1

    verdict = judge(change, sample_reference(masks=80))
    assert verdict.num_masks == 195
    assert verdict.passed is passed


def test_masks_below_the_score_threshold_do_not_count():
    def change(outputs, frame):
        outputs['mask_embeddings'][0] *= -1
        outputs['mask_logits'][0] *= -1

    assert judge(change).passed


def test_all_masks_count_where_none_reaches_the_threshold():
    reference = sample_reference()
    reference['score'] = reference['score'] * 0.2
    assert judge(reference=reference).num_masks == 12
    assert not judge(lambda outputs, frame: outputs['mask_embeddings'].__imul__(-1), reference).passed


@pytest.mark.parametrize(('pixels', 'passed'), [(2, True), (4, False)])
def test_labels_may_differ_in_one_pixel_of_a_hundred(pixels, passed):
    def change(outputs, frame):
        if frame == 2:
            rows = outputs['query_map'].reshape(-1)
            taken = np.flatnonzero(rows)[:pixels]
            rows[taken] = 0

    verdict = judge(change)
    assert verdict.passed is passed
    assert values(verdict)['label agreement'] == pytest.approx(1 - pixels / 300)
    assert verdict.worst_frame == 2


def test_another_mask_of_the_same_class_is_the_same_label():
    reference = sample_reference()
    reference['class_index'][:] = 1
    assert judge(lambda outputs, frame: outputs['query_map'].__ifloordiv__(1), reference).passed

    def change(outputs, frame):
        outputs['query_map'][outputs['query_map'] == 2] = 3

    assert judge(change, reference).passed


def test_mean_iou_of_masks():
    def change(outputs, frame):
        # One of nine masks loses half of its pixels.
        if frame == 0:
            outputs['mask_logits'][1] = -1
            outputs['mask_logits'][1, :2] = 1

    reference = sample_reference()
    reference['mask_logits'][0, 1] = -1
    reference['mask_logits'][0, 1, :4] = 1
    verdict = judge(change, reference)
    assert values(verdict)['mask IoU'] == pytest.approx((8 + 0.5) / 9)
    assert not verdict.passed


def test_empty_masks_agree():
    reference = sample_reference()
    reference['mask_logits'][:] = -5
    assert values(judge(reference=reference))['mask IoU'] == 1


@pytest.mark.parametrize('mask_threshold', [0.0, 1.0])
def test_any_mask_threshold_can_be_judged(mask_threshold):
    reference = sample_reference()
    reference['thresholds'][1] = mask_threshold
    assert judge(reference=reference).passed


@pytest.mark.parametrize('name', ['mask_logits', 'mask_embeddings', 'objectness', 'score'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_no_number_is_no_pass(name, value):
    def change(outputs, frame):
        if frame == 1:
            # Of a mask that does not count otherwise.
            outputs[name].reshape(4, -1)[0, 0] = value

    verdict = judge(change)
    assert not verdict.passed
    assert verdict.broken_outputs == 1
    assert '1 outputs with NaN, Inf or unknown masks' in verdict.describe()
    assert all(np.isfinite(check.value) for check in verdict.checks)


@pytest.mark.parametrize('query', [-1, 5])
def test_masks_that_do_not_exist_are_no_pass(query):
    verdict = judge(lambda outputs, frame: outputs['query_map'].__setitem__((0, 0), query))
    assert not verdict.passed
    assert verdict.broken_outputs == 3


@pytest.mark.parametrize('name', OUTPUTS)
def test_outputs_of_another_shape_are_no_pass(name):
    verdict = judge(lambda outputs, frame: outputs.__setitem__(name, outputs[name][:-1]))
    assert not verdict.passed
    assert verdict.broken_outputs == 3


def test_a_collapsed_network_does_not_pass():
    """What TensorRT 10.3 made of a DINOv3 encoder: one class everywhere."""
    verdict = judge(lambda outputs, frame: outputs['query_map'].fill(1))
    assert not verdict.passed
    assert values(verdict)['label agreement'] < 0.6


def test_a_verdict_survives_the_sidecar():
    verdict = judge(turned(40))
    assert ParityVerdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
    with pytest.raises(ValueError, match='no verdict of the parity gate'):
        ParityVerdict.from_json({'passed': True})


@pytest.mark.parametrize('name', ['image', 'thresholds', 'score'])
def test_incomplete_references_are_refused(name):
    reference = sample_reference()
    del reference[name]
    with pytest.raises(GraphsError, match=f'lack {name}: export the model anew'):
        ParityGate(reference)


def test_a_reference_without_frames_is_refused():
    with pytest.raises(GraphsError, match='lack frames'):
        ParityGate(sample_reference(frames=0))


def test_reference_files(tmp_path):
    path = tmp_path / 'reference.npz'
    with pytest.raises(GraphsError, match=r'reference\.npz cannot be read'):
        ParityGate.open(path)
    np.savez_compressed(path, **sample_reference())
    assert ParityGate.open(path).num_frames == 3
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(GraphsError, match=r'reference\.npz cannot be read'):
        ParityGate.open(path)


class ToyEngines:
    """The toy's graphs on ONNX Runtime, with a head that may be wrong at some numbers of words."""

    def __init__(self, folder, manifest):
        self.toolkit = TensorRtToolkit(folder, graph_files.open_graphs(folder, manifest), 0)
        self.gate = ParityGate.open(folder / graph_files.REFERENCE_FILE, head=self.toolkit.run_float32_head)
        path = str(folder / graph_files.ENCODER_FILE)
        self.encoder = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        self.sizes = []

    def judge(self, change=lambda outputs, words: None, is_cancelled=lambda: False):
        def run(inputs):
            self.sizes.append(inputs['synonym_mask'].shape)
            given = {name: inputs[name] for name in graph_files.ENCODER_INPUTS}
            encoded = dict(zip(graph_files.ENCODER_OUTPUTS, self.encoder.run(None, given), strict=True))
            words = {name: inputs[name] for name in graph_files.HEAD_INPUTS if name in inputs}
            outputs = {**encoded, **self.toolkit.run_float32_head({**words, **encoded})}
            change(outputs, len(inputs['is_thing']))
            return outputs

        return self.gate.judge(run, is_cancelled)


@pytest.fixture
def engines(toy_graphs, toy_manifest):
    return ToyEngines(toy_graphs, toy_manifest)


def test_the_head_is_judged_with_one_word_and_with_many(engines):
    seen = {}

    def note(outputs, words):
        shown = np.unique(outputs['query_map'])
        seen.setdefault(words, set()).update(outputs['class_index'][shown[shown > 0] - 1].tolist())

    verdict = engines.judge(note)
    assert verdict.passed, verdict.describe()
    assert engines.sizes == [(7, 3)] * 8 + [(1, 1)] * 4 + [(1001, 3)] * 4
    assert list(values(verdict))[3:] == ['label agreement at K=1', 'label agreement at K=1001']
    # Or there would be nothing to compare.
    assert seen[1] == {0}
    assert seen[1001]
    assert min(seen[1001]) >= 994, 'the words of the reference are the last ones'


def forget(outputs, rows):
    """Lose the masks of some classes, as a kernel that does not reach them."""
    lost = np.flatnonzero(np.isin(outputs['class_index'], rows)) + 1
    outputs['query_map'][np.isin(outputs['query_map'], lost)] = 0


@pytest.mark.parametrize('words', [1, 1001])
@pytest.mark.parametrize(
    'wrong',
    [
        lambda outputs: forget(outputs, range(2000)),
        lambda outputs: outputs['class_index'].__iadd__(1),
        lambda outputs: outputs['score'].__imul__(0.5),
        lambda outputs: outputs['score'].__setitem__(0, np.nan),
        lambda outputs: outputs['query_map'].__setitem__((0, 0), 99),
    ],
)
def test_a_head_that_is_wrong_at_one_number_of_words_does_not_pass(engines, words, wrong):
    verdict = engines.judge(lambda outputs, number: wrong(outputs) if number == words else None)
    assert all(check.is_met for check in verdict.checks[:3])
    assert not verdict.passed


def test_words_behind_the_first_thousand_count(engines):
    assert not engines.judge(lambda outputs, words: forget(outputs, range(994, 1001)) if words > 7 else None).passed


def test_what_is_wrong_already_is_not_judged_further(engines):
    verdict = engines.judge(lambda outputs, words: outputs['mask_embeddings'].__imul__(-1))
    assert not verdict.passed
    assert set(engines.sizes) == {(7, 3)}


@pytest.mark.parametrize('frames', [0, 3, 8, 12, 15])
def test_judging_can_be_cancelled_before_each_frame(engines, frames):
    with pytest.raises(BuildCancelledError):
        engines.judge(is_cancelled=lambda: len(engines.sizes) == frames)
    assert len(engines.sizes) == frames

"""What a process does after its GPU has failed; the engines are those of test_engine_supply."""

import pytest

from fisa_ros.core.errors import BackendUnavailableError, EngineError, GpuFailedError, VocabularyError
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.runtime import tensorrt_start
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.engine_inputs import check_vocabulary_size
from fisa_ros.runtime.factory import create_backend
from fisa_ros.runtime.graph_files import graphs_folder
from fisa_ros.runtime.switching_backend import MAX_FAILED_FRAMES

from .conftest import toy_frames


class Failing:
    """Serves one frame and then none."""

    name, device, precision, max_classes = 'tensorrt', 'cuda:0', 'fp16', 8192
    image_size_hw, embedding_dim, num_semantic_tokens = (64, 64), 384, 32
    frames = 0

    def segment(self, image, state, thresholds):
        self.frames += 1
        if self.frames > 1:
            raise GpuFailedError('running on the GPU failed (cudaErrorLaunchFailure)')
        return 'by TensorRT'

    def close(self):
        pass


class Supply:
    def __init__(self, progress, error=None):
        self.progress, self.error, self.backend = progress, error, Failing()

    def get(self, is_cancelled):
        self.progress.enter(BuildState.VERIFYING)
        if self.error is not None:
            raise self.error
        return self.backend, 'passed'


@pytest.fixture
def supplies(monkeypatch, toy_manifest, toy_graphs):
    """Put the toy's graphs and simulated engines in place; what is here is what was asked for."""
    made = []

    def supply(*_):
        progress = BuildProgress()
        made.append(Supply(progress, made.error))
        return made[-1], progress

    class Supplies(list):
        error = None

    made = Supplies()
    monkeypatch.setattr(tensorrt_start, '_supply', supply)
    monkeypatch.setattr(tensorrt_start, '_lost_gpus', {})
    monkeypatch.setattr(tensorrt_start, 'require_tensorrt', lambda: None)
    monkeypatch.setattr('fisa_ros.runtime.factory._count_gpus', lambda: 2)
    monkeypatch.setattr('fisa_ros.runtime.factory.graphs_folder', lambda manifest: toy_graphs)
    assert graphs_folder(toy_manifest) != toy_graphs
    return made


@pytest.mark.parametrize('name', ['auto', 'tensorrt'])
def test_a_gpu_that_failed_is_not_used_again_in_this_process(supplies, toy_manifest, toy_state, name):
    thresholds, image = toy_manifest.thresholds, toy_frames(1)[0]
    backend = create_backend(toy_manifest, name, 'cuda:0')
    assert backend.wait(20)
    assert backend.segment(image, toy_state, thresholds) == 'by TensorRT'
    for _ in range(MAX_FAILED_FRAMES - 1):
        with pytest.raises(EngineError, match='cudaErrorLaunchFailure'):
            backend.segment(image, toy_state, thresholds)
    # The real one, opened anew.
    assert backend.segment(image, toy_state, thresholds).query_map.shape == (32, 32)
    assert (backend.name, backend.status.is_lost) == ('onnxruntime', True)
    backend.close()

    again = create_backend(toy_manifest, name, 'cuda:0')
    assert again.wait(20)
    assert again.name == 'onnxruntime'
    assert 'GPU 0 failed, and is not used until the process is started again: tensorrt failed 5 frames' in (
        again.status.describe()
    )
    assert len(supplies) == 1, 'the GPU was asked again'
    again.close()
    other = create_backend(toy_manifest, name, 'cuda:1')
    assert other.wait(20)
    assert other.name == 'tensorrt'
    other.close()


def test_a_gpu_that_fails_in_the_gate_is_not_used_again_either(supplies, toy_manifest, toy_graphs):
    supplies.error = GpuFailedError('running on the GPU failed (cudaErrorIllegalAddress)')
    backend = create_backend(toy_manifest, 'tensorrt')
    assert backend.wait(20)
    assert (backend.name, backend.status.build.state) == ('onnxruntime', BuildState.FAILED)
    backend.close()
    with pytest.raises(BackendUnavailableError, match=r'GPU 0 failed, .*cudaErrorIllegalAddress'):
        tensorrt_start.start_tensorrt(toy_manifest, toy_graphs, lambda: None)


def test_engines_limit_the_words_before_they_serve_and_where_they_cannot_they_do_not(supplies, toy_manifest):
    supplies.error = EngineError('no precision gives the reference outputs')
    backend = create_backend(toy_manifest, 'tensorrt')
    assert (backend.name, backend.max_classes) == ('onnxruntime', 8192)
    backend.close()
    assert create_backend(toy_manifest, 'onnxruntime').max_classes is None
    unavailable = create_backend(toy_manifest, 'tensorrt', 'cuda:7')
    assert unavailable.max_classes is None
    unavailable.close()


def test_engines_take_as_many_names_as_a_class_may_have():
    words = '; '.join(f'w{number}, ' + ', '.join(f'n{number}-{other}' for other in range(8)) for number in range(2))
    vocabulary = VocabularyRegistry().propose(VocabularyRequest.parse(words))
    check_vocabulary_size(2, max(len(entry.names) for entry in vocabulary.classes))
    with pytest.raises(VocabularyError, match='at most 8 are allowed'):
        VocabularyRegistry().propose(VocabularyRequest((', '.join(f'n{number}' for number in range(10)),)))

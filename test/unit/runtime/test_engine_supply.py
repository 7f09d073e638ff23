"""Cache, child processes, gate and ladder together; only what needs a GPU is simulated."""

from dataclasses import replace
from functools import partial
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fisa_ros.core.errors import BuildCancelledError, EngineError, GpuFailedError, GpuMemoryError, GraphsError
from fisa_ros.runtime import tensorrt_start
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.engine_build import build_in_child
from fisa_ros.runtime.engine_cache import PLAN_FILE, SIDECAR_FILE, BuildRecord, EngineCache
from fisa_ros.runtime.engine_supply import EngineSupply
from fisa_ros.runtime.graph_files import GraphsDescription

from .engine_builders import note_and_write
from .engine_samples import MACHINE, sample_reference

# Three frames, with three numbers of words each.
RUNS = 9
HERE = Path(__file__).absolute().parent
FP16, SAFE, FP32 = 'encoder_fp16.onnx', 'encoder_fp16_safe.onnx', 'encoder.onnx'
OUTPUTS = ('mask_logits', 'mask_embeddings', 'objectness', 'query_map', 'class_index', 'score')


class Engine:
    def __init__(self, plan):
        self.plan, self.is_closed = plan, False

    def close(self):
        self.is_closed = True


class Backend:
    name = 'tensorrt'

    def __init__(self, engines, outputs):
        self.engines, self.outputs, self.is_closed = engines, outputs, False

    def run_graphs(self, inputs):
        return self.outputs(inputs)

    def close(self):
        self.is_closed = True
        for engine in self.engines:
            engine.close()


class Toolkit:
    """Plans in `broken` do not load.

    Engines in `wrong` give other embeddings, those in `narrow` other labels where words are many, and those in `fatal`
    take the GPU down.
    """

    def __init__(self, reference):
        self.reference, self.machine = reference, MACHINE
        self.wrong, self.narrow, self.fatal, self.broken, self.judged = set(), set(), set(), [], 0
        self.engines, self.backends = [], []

    def read_machine(self):
        return self.machine

    def open_engine(self, plan):
        text = plan.read_text()
        if text in self.broken:
            self.broken.remove(text)
            raise EngineError(f'cannot load {plan}')
        self.engines.append(Engine(text))
        return self.engines[-1]

    def run_float32_head(self, inputs):
        frame = [entry.tobytes() for entry in self.reference['mask_logits']].index(inputs['mask_logits'].tobytes())
        return {name: self.reference[name][frame] for name in OUTPUTS[3:]}

    def open_backend(self, encoder, head, precision):
        def outputs(inputs):
            self.judged += 1
            if encoder.plan in self.fatal:
                raise GpuFailedError('running on the GPU failed (cudaErrorIllegalAddress)')
            image = inputs['image']
            frame = [entry.tobytes() for entry in self.reference['image']].index(image.tobytes())
            found = {name: self.reference[name][frame].copy() for name in OUTPUTS}
            if encoder.plan in self.wrong:
                found['mask_embeddings'] = np.roll(found['mask_embeddings'], 1, -1)
            if head.plan in self.narrow and len(inputs['is_thing']) > 100:
                found['query_map'][:] = 0
            return found

        self.backends.append(Backend((encoder, head), outputs))
        return self.backends[-1]


def build_here(arguments, plan_path, is_cancelled):
    """Build without a child process, which takes a second each; those are tested in test_engine_build."""
    if is_cancelled():
        raise BuildCancelledError('cancelled')
    return BuildRecord(1.5, note_and_write(arguments, plan_path, is_cancelled)['half_layer_share'])


class Rig:
    def __init__(self, folder):
        self.folder, self.cache = folder, EngineCache(folder / 'trt')
        self.toolkit = Toolkit(sample_reference())
        np.savez(folder / 'reference.npz', **self.toolkit.reference)
        for name in (FP16, SAFE, FP32, 'head.onnx', 'text.onnx'):
            (folder / name).write_text(name)
        self.build = build_here

    def open(self):
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.folder.iterdir()
            if path.suffix in ('.onnx', '.npz', '.data')
        }
        description = GraphsDescription('toy', 's', (5, 7), 4, (6, 6), 8, 2, True, {}, files)
        self.progress = BuildProgress()
        self.supply = EngineSupply(
            self.folder, description, self.toolkit, self.progress, self.cache,
            build=self.build,
        )  # fmt: skip
        return self.supply

    def get(self, is_cancelled=lambda: False):
        """Start as a node does: nothing is remembered but what is on disk."""
        return self.open().get(is_cancelled)

    def builds(self):
        """Return what was built since the last call."""
        path = self.folder / 'builds'
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def sidecars(self):
        found = {}
        for path in self.cache.folder.glob(f'[!.]*/{SIDECAR_FILE}'):
            found[(path.parent / PLAN_FILE).read_text()] = json.loads(path.read_text())
        return found


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_with_real_child_processes(rig, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(HERE), prepend=os.pathsep)
    rig.build = partial(build_in_child, builder='engine_builders:note_and_write')
    (rig.folder / f'{FP16}.refused').touch()
    assert rig.get()[1].startswith('fp16-safe passed')
    assert rig.builds() == [f'{FP16} tf32', f'{SAFE} exact', 'head.onnx exact']
    assert rig.get()[1].startswith('fp16-safe passed')
    # What the builder cannot make is not tried again.
    assert rig.builds() == []
    assert rig.supply.attempts[0].outcome == 'skipped'
    (rig.folder / f'{FP16}.refused').unlink()
    (rig.folder / f'{FP16}.crash').touch()
    rig.open().forget_refusals()
    for _ in range(2):
        assert rig.get()[1].startswith('fp16-safe passed')
        assert 'crashed with SIGSEGV' in rig.supply.attempts[0].reason
        # A crash may have had any cause.
        assert rig.builds() == [f'{FP16} tf32']


def test_the_second_start_builds_and_verifies_nothing(rig):
    backend, summary = rig.get()
    assert [engine.plan for engine in backend.engines] == [f'{FP16} tf32', 'head.onnx tf32']
    assert summary.startswith('fp16 passed: parity passed: cosine 1 (at least 0.999)')
    assert rig.builds() == [f'{FP16} tf32', 'head.onnx tf32']
    assert rig.toolkit.judged == RUNS
    assert rig.progress.status.state is BuildState.VERIFYING
    assert rig.get()[1] == summary
    assert rig.builds() == []
    assert rig.toolkit.judged == RUNS


def test_the_sidecar_says_all(rig):
    rig.get()
    encoder, head = rig.sidecars()[f'{FP16} tf32'], rig.sidecars()['head.onnx tf32']
    assert (encoder['fields']['recipe'], encoder['half_layer_share'], encoder['parity']['passed']) == (
        'fp16',
        0.5,
        True,
    )
    assert encoder['fields']['machine']['tensorrt_version'] == '10.16.1.11'
    assert (head['fields']['recipe'], head['parity']) == ('tf32', None)
    assert rig.cache.last_duration_s(f'toy fp16 {FP16} on Orin (nvgpu)') == encoder['build_seconds']


def test_wrong_engines_are_passed_over_and_not_tried_again(rig):
    rig.toolkit.wrong = {f'{FP16} tf32', f'{SAFE} exact'}
    backend, summary = rig.get()
    assert summary.startswith('fp32-tf32 passed')
    assert [attempt.outcome for attempt in rig.supply.attempts] == ['wrong', 'wrong', 'passed']
    # Two roundings, two heads.
    assert rig.builds() == [f'{FP16} tf32', 'head.onnx tf32', f'{SAFE} exact', 'head.onnx exact', f'{FP32} tf32']
    assert [entry.is_closed for entry in rig.toolkit.backends] == [True, True, False]
    assert rig.sidecars()[f'{FP16} tf32']['parity']['passed'] is False
    judged = rig.toolkit.judged
    rig.toolkit.backends.clear()
    assert rig.get()[1] == summary
    assert rig.builds() == []
    assert rig.toolkit.judged == judged
    assert len(rig.toolkit.backends) == 1, 'an engine that is known to be wrong was loaded'
    assert backend is not rig.toolkit.backends[0]


def test_nothing_passes(rig):
    rig.toolkit.wrong = {f'{name} {rounding}' for name in (FP16, SAFE, FP32) for rounding in ('tf32', 'exact')}
    with pytest.raises(EngineError, match=r"no TensorRT engine of model 'toy' gives the reference outputs: fp16 wrong: "
                       r'parity failed: cosine .*; fp16-safe wrong: .*; fp32-tf32 wrong: .*; fp32 wrong'):  # fmt: skip
        rig.get()
    assert all(engine.is_closed for engine in rig.toolkit.engines)
    assert len(rig.supply.attempts) == 4


def test_graphs_of_half_precision_may_be_missing(rig):
    (rig.folder / FP16).unlink()
    (rig.folder / SAFE).unlink()
    backend, summary = rig.get()
    assert summary.startswith('fp32-tf32 passed')
    assert [attempt.describe() for attempt in rig.supply.attempts[:2]] == [
        f'fp16 skipped: {FP16} was not exported', f'fp16-safe skipped: {SAFE} was not exported',
    ]  # fmt: skip
    assert [engine.plan for engine in backend.engines] == [f'{FP32} tf32', 'head.onnx tf32']


def test_a_graph_that_cannot_be_built_is_passed_over(rig):
    (rig.folder / f'{FP16}.refused').touch()
    assert rig.get()[1].startswith('fp16-safe passed')
    assert rig.supply.attempts[0].describe() == f'fp16 not built: {FP16} has a node that is not supported'


@pytest.mark.parametrize(
    'change',
    [
        lambda rig: (rig.folder / FP16).write_text('retrained'),
        lambda rig: (rig.folder / f'{FP16}.data').write_text('retrained'),
        lambda rig: setattr(rig.toolkit, 'machine', replace(MACHINE, tensorrt_version='11.4.0.106')),
        lambda rig: setattr(rig.toolkit, 'machine', replace(MACHINE, gpu_name='NVIDIA Thor')),
        lambda rig: setattr(rig.toolkit, 'machine', replace(MACHINE, cuda_driver_version=13030)),
    ],
)
def test_what_an_engine_depends_on_makes_a_new_one(rig, change):
    rig.get()
    rig.builds()
    change(rig)
    rig.get()
    assert f'{FP16} tf32' in rig.builds()
    assert rig.toolkit.judged == 2 * RUNS


def test_another_reference_is_judged_anew_without_a_build(rig):
    rig.get()
    rig.builds()
    rig.toolkit.reference['image'][0, 0, 0] ^= 1
    np.savez(rig.folder / 'reference.npz', **rig.toolkit.reference)
    rig.get()
    assert rig.builds() == []
    assert rig.toolkit.judged == 2 * RUNS


@pytest.mark.parametrize('plan', [f'{FP16} tf32', 'head.onnx tf32'])
def test_a_plan_from_the_cache_that_does_not_load_is_built_anew_once(rig, plan):
    rig.get()
    rig.builds()
    rig.toolkit.broken = [plan]
    assert rig.get()[1].startswith('fp16 passed')
    assert rig.builds() == [plan]
    assert rig.toolkit.broken == []
    # A second failure is that of the precision.
    rig.toolkit.broken = [plan, plan]
    rig.get()
    assert rig.supply.attempts[0].outcome == 'not built'
    assert 'cannot load' in rig.supply.attempts[0].reason
    assert rig.builds()[0] == plan


def test_a_new_plan_that_does_not_load_is_not_built_twice(rig):
    rig.toolkit.broken = [f'{FP16} tf32']
    assert rig.get()[1].startswith('fp16-safe passed')
    assert rig.builds().count(f'{FP16} tf32') == 1


def test_a_damaged_plan_is_built_anew(rig):
    rig.get()
    rig.builds()
    next(path for path in rig.cache.folder.glob(f'[!.]*/{PLAN_FILE}') if 'head' in path.read_text()).write_text('head')
    rig.get()
    assert rig.builds() == ['head.onnx tf32']


KEY_CHANGES = [
    lambda rig: (rig.folder / FP16).write_text('retrained'),
    lambda rig: setattr(rig.toolkit, 'machine', replace(MACHINE, tensorrt_version='11.4.0.106')),
    lambda rig: setattr(rig.toolkit, 'machine', replace(MACHINE, gpu_name='NVIDIA Thor')),
]


def refuse(rig, cause):
    """Let the first precision be refused by builder or gate, at one start."""
    if cause == 'builder':
        (rig.folder / f'{FP16}.refused').touch()
    else:
        rig.toolkit.wrong = {f'{FP16} tf32'}
    assert rig.get()[1].startswith('fp16-safe passed')
    assert rig.builds()[0] == f'{FP16} tf32'
    (rig.folder / f'{FP16}.refused').unlink(missing_ok=True)
    rig.toolkit.wrong.clear()
    rig.toolkit.engines.clear()


@pytest.mark.parametrize('cause', ['builder', 'gate'])
def test_a_refusal_is_one_line_at_the_next_start(rig, caplog, cause):
    refuse(rig, cause)
    caplog.clear()
    assert rig.get()[1].startswith('fp16-safe passed')
    assert rig.builds() == []
    assert [engine.plan for engine in rig.toolkit.engines] == [f'{SAFE} exact', 'head.onnx exact']
    lines = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert len(lines) == 1
    why = 'has a node that is not supported' if cause == 'builder' else 'parity failed: cosine'
    assert lines[0].startswith('fp16 skipped: ')
    assert why in lines[0]
    assert 'build_engines --retry tries it again' in lines[0]


@pytest.mark.parametrize('cause', ['builder', 'gate'])
@pytest.mark.parametrize('change', KEY_CHANGES)
def test_a_refusal_is_of_its_key_alone(rig, cause, change):
    refuse(rig, cause)
    change(rig)
    assert rig.get()[1].startswith('fp16 passed')
    assert rig.builds()[0] == f'{FP16} tf32'


@pytest.mark.parametrize('change', [
    lambda rig: np.savez(rig.folder / 'reference.npz', **{**rig.toolkit.reference, 'more': np.zeros(1)}),
    lambda rig: (rig.folder / 'head.onnx').write_text('another head'),
])  # fmt: skip
def test_a_verdict_is_not_that_of_another_reference_or_head(rig, change):
    refuse(rig, 'gate')
    change(rig)
    assert rig.get()[1].startswith('fp16 passed')
    assert f'{FP16} tf32' not in rig.builds()


@pytest.mark.parametrize('cause', ['builder', 'gate'])
@pytest.mark.parametrize('text', ['', '{', '[]', '{"reason": 3}', 'null', b'\xff'])
def test_a_damaged_refusal_is_none(rig, cause, text):
    refuse(rig, cause)
    (path,) = rig.cache.folder.glob('*.failed.json')
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert rig.get()[1].startswith('fp16 passed')


@pytest.mark.parametrize('cause', ['builder', 'gate'])
def test_forgotten_refusals_are_tried_again(rig, cause):
    refuse(rig, cause)
    rig.open().forget_refusals()
    assert rig.get()[1].startswith('fp16 passed')
    # The plan too: what was judged once would be judged so again.
    assert rig.builds()[0] == f'{FP16} tf32'
    assert not list(rig.cache.folder.glob('*.failed.json'))


def test_a_head_that_cannot_be_built_is_refused_with_every_encoder(rig):
    (rig.folder / 'head.onnx.refused').touch()
    for expected in ([f'{FP16} tf32', 'head.onnx tf32', f'{SAFE} exact', 'head.onnx exact'], []):
        with pytest.raises(EngineError, match=r'fp32-tf32 skipped: head.onnx has a node .*fp32 skipped: head'):
            rig.get()
        assert rig.builds() == expected


def test_an_engine_that_takes_the_gpu_down_ends_the_climb_once(rig):
    rig.toolkit.fatal = {f'{FP16} tf32'}
    with pytest.raises(GpuFailedError, match='cudaErrorIllegalAddress'):
        rig.get()
    assert all(engine.is_closed for engine in rig.toolkit.engines)
    assert rig.builds() == [f'{FP16} tf32', 'head.onnx tf32'], 'it went on with a GPU that is gone'
    assert rig.get()[1].startswith('fp16-safe passed')
    assert 'its run ended so: running on the GPU failed' in rig.supply.attempts[0].reason


def test_a_head_that_is_wrong_with_many_words_does_not_pass(rig):
    rig.toolkit.narrow = {'head.onnx tf32'}
    assert rig.get()[1].startswith('fp16-safe passed')
    reason = rig.supply.attempts[0].reason
    assert 'label agreement at K=1 1 (at least 0.99), label agreement at K=1002 0.' in reason


@pytest.mark.parametrize('runs', [0, 1, 4])
def test_cancelled_between_the_frames_of_the_gate(rig, runs):
    with pytest.raises(BuildCancelledError):
        rig.get(lambda: bool(rig.toolkit.backends) and rig.toolkit.judged >= runs)
    assert rig.toolkit.judged == runs
    assert all(engine.is_closed for engine in rig.toolkit.engines)
    assert not list(rig.cache.folder.glob('*.failed.json'))


def test_cancelled_while_building(rig):
    with pytest.raises(BuildCancelledError):
        rig.get(lambda: True)
    assert rig.sidecars() == {}


def test_too_little_gpu_memory_ends_the_climb(rig, monkeypatch):
    def fail(encoder, head, precision):
        encoder.close()
        head.close()
        raise GpuMemoryError('taking 300 MiB failed')

    monkeypatch.setattr(rig.toolkit, 'open_backend', fail)
    with pytest.raises(GpuMemoryError, match='taking 300 MiB failed'):
        rig.get()
    assert all(engine.is_closed for engine in rig.toolkit.engines)


def test_a_head_that_does_not_load_frees_the_encoder(rig):
    rig.toolkit.broken = ['head.onnx tf32']
    rig.get()
    assert [engine.is_closed for engine in rig.toolkit.engines] == [True, False, False]


def test_damaged_reference_outputs_are_said(rig):
    (rig.folder / 'reference.npz').write_bytes(b'PK')
    with pytest.raises(GraphsError, match=r'reference\.npz cannot be read'):
        rig.get()
    assert rig.builds() == []


@pytest.mark.parametrize(
    ('precision', 'names'),
    [('auto', ['fp16', 'fp16-safe', 'fp32-tf32', 'fp32']), ('fp32', ['fp32-tf32', 'fp32'])],
)
def test_precisions_that_are_tried(toy_manifest, toy_graphs, tmp_path, monkeypatch, precision, names):
    monkeypatch.setattr(tensorrt_start, 'require_tensorrt', lambda: None)
    supply, _ = tensorrt_start._supply(toy_manifest, toy_graphs, 0, precision, EngineCache(tmp_path))
    assert [rung.name for rung in supply._rungs] == names

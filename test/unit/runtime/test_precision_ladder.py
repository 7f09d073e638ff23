import pytest

from fisa_ros.core.errors import BuildCancelledError, EngineCacheError, EngineError, GpuFailedError, GpuMemoryError
from fisa_ros.runtime.parity_gate import Check, ParityVerdict
from fisa_ros.runtime.precision_ladder import RUNGS, Outcome, climb

ALL = {'encoder.onnx', 'encoder_fp16.onnx', 'encoder_fp16_safe.onnx', 'head.onnx'}
NAMES = ['fp16', 'fp16-safe', 'fp32-tf32', 'fp32']


def verdict(cosine):
    return ParityVerdict(cosine >= 0.999, (Check('cosine', cosine, 0.999, cosine >= 0.999),), 0, 8, 12, 0)


class Tries:
    """Builds anything; the gate says what `cosines` says of a rung, errors are raised."""

    def __init__(self, cosines, build_errors=None):
        self.cosines, self.build_errors = cosines, build_errors or {}
        self.built, self.dropped = [], []

    def climb(self, files=ALL, **options):
        return climb(self.build, self.judge, self.dropped.append, files, **options)

    def build(self, rung):
        if rung.name in self.build_errors:
            raise self.build_errors[rung.name]
        self.built.append(rung.name)
        return rung.name

    def judge(self, rung, built):
        assert rung.name == built
        cosine = self.cosines.get(built, 0.5)
        if isinstance(cosine, Exception):
            raise cosine
        return verdict(cosine)


def test_the_rungs_go_from_fast_to_exact():
    assert [rung.name for rung in RUNGS] == NAMES
    assert [(rung.encoder_file, rung.allows_tf32) for rung in RUNGS] == [
        ('encoder_fp16.onnx', True), ('encoder_fp16_safe.onnx', False), ('encoder.onnx', True), ('encoder.onnx', False),
    ]  # fmt: skip


@pytest.mark.parametrize('first', range(4))
def test_the_first_that_passes_is_taken(first):
    tries = Tries({NAMES[first]: 1.0})
    found = tries.climb()
    assert found.built == NAMES[first]
    assert [attempt.rung.name for attempt in found.attempts] == NAMES[: first + 1]
    assert [attempt.outcome for attempt in found.attempts] == [Outcome.WRONG] * first + [Outcome.PASSED]
    assert tries.dropped == NAMES[:first]
    assert all(attempt.verdict is not None for attempt in found.attempts)


def test_none_passes():
    tries = Tries({})
    found = tries.climb()
    assert found.built is None
    assert tries.dropped == NAMES
    assert found.describe().count('parity failed: cosine 0.5 (at least 0.999)') == 4


def test_graphs_that_were_not_exported_are_skipped_and_recorded():
    found = Tries({'fp32': 1.0}).climb({'encoder.onnx', 'head.onnx'})
    assert [attempt.outcome for attempt in found.attempts] == ['skipped', 'skipped', 'wrong', 'passed']
    assert found.attempts[0].describe() == 'fp16 skipped: encoder_fp16.onnx was not exported'
    assert found.attempts[0].verdict is None


def test_a_rung_that_cannot_be_built_is_passed_over():
    tries = Tries({'fp16-safe': 1.0}, {'fp16': EngineError('no kernel for Gelu')})
    found = tries.climb()
    assert found.built == 'fp16-safe'
    assert found.attempts[0].describe() == 'fp16 not built: no kernel for Gelu'
    assert tries.dropped == []


def test_a_rung_that_does_not_run_is_wrong():
    tries = Tries({'fp16': EngineError('illegal address'), 'fp16-safe': 1.0})
    found = tries.climb()
    assert found.built == 'fp16-safe'
    assert found.attempts[0].describe() == 'fp16 wrong: illegal address'
    assert tries.dropped == ['fp16']


@pytest.mark.parametrize(
    'error',
    [
        EngineCacheError('disk full'),
        GpuMemoryError('2 GiB'),
        BuildCancelledError('stop'),
        GpuFailedError('gone'),
        RuntimeError('bug'),
    ],
)
def test_what_every_rung_would_meet_ends_the_climb(error):
    tries = Tries({'fp32': 1.0}, {'fp16': error})
    with pytest.raises(type(error), match=str(error)):
        tries.climb()
    assert tries.built == []
    tries = Tries({'fp16': error})
    with pytest.raises(type(error), match=str(error)):
        tries.climb()
    assert tries.dropped == ['fp16']


def test_a_rung_that_is_refused_is_not_tried():
    tries = Tries({'fp16': 1.0, 'fp16-safe': 1.0})
    found = tries.climb(refusal=lambda rung: 'no kernel' if rung.name == 'fp16' else None)
    assert tries.built == ['fp16-safe']
    assert found.attempts[0].describe() == 'fp16 skipped: no kernel'


@pytest.mark.parametrize('count', range(3))
def test_a_climb_can_be_cancelled_before_each_rung(count):
    tries = Tries({})
    with pytest.raises(BuildCancelledError):
        tries.climb(is_cancelled=lambda: len(tries.built) == count)
    assert tries.built == tries.dropped == NAMES[:count]

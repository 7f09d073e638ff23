"""Which precision to try, and which next when the engines are wrong."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
import logging

from fisa_ros.core.errors import BuildCancelledError, EngineError, GpuFailedError
from fisa_ros.runtime.graph_files import ENCODER_FILE, FP16_ENCODER_FILE, SAFE_FP16_ENCODER_FILE
from fisa_ros.runtime.parity_gate import ParityVerdict

_LOG = logging.getLogger('fisa_ros.tensorrt')


@dataclass(frozen=True, slots=True)
class Rung:
    """One precision.

    Attributes:
        name: What it is called.
        encoder_file: The encoder graph; its dtypes are the precision, as networks are strongly typed. Inputs and
            outputs are those of the float32 encoder, whatever is inside. The head is always float32.
        allows_tf32: Whether float32 products, the islands and the head, may be rounded to ten bits.
    """

    name: str
    encoder_file: str
    allows_tf32: bool


RUNGS = (
    Rung('fp16', FP16_ENCODER_FILE, allows_tf32=True),
    Rung('fp16-safe', SAFE_FP16_ENCODER_FILE, allows_tf32=False),
    Rung('fp32-tf32', ENCODER_FILE, allows_tf32=True),
    Rung('fp32', ENCODER_FILE, allows_tf32=False),
)


class Outcome(StrEnum):
    """What came of a rung."""

    PASSED = 'passed'
    WRONG = 'wrong'
    NOT_BUILT = 'not built'
    SKIPPED = 'skipped'


@dataclass(frozen=True, slots=True)
class Attempt:
    """One rung that was tried.

    Attributes:
        rung: Which.
        outcome: What came of it.
        reason: Why, in one line.
        verdict: What the gate said; None if it was not asked.
    """

    rung: Rung
    outcome: Outcome
    reason: str
    verdict: ParityVerdict | None = None

    def describe(self) -> str:
        """Say it in one line."""
        return f'{self.rung.name} {self.outcome}: {self.reason}'


@dataclass(frozen=True, slots=True)
class Climb[Built]:
    """How far the ladder went.

    Attributes:
        built: What passed; None if nothing did and the fallback has to serve.
        attempts: All rungs that were tried, in order.
    """

    built: Built | None
    attempts: tuple[Attempt, ...]

    def describe(self) -> str:
        """Say in one line what came of each rung."""
        return '; '.join(attempt.describe() for attempt in self.attempts)


def climb[Built](
    build: Callable[[Rung], Built],
    judge: Callable[[Rung, Built], ParityVerdict],
    drop: Callable[[Built], None],
    files: Collection[str],
    rungs: Sequence[Rung] = RUNGS,
    *,
    refusal: Callable[[Rung], str | None] = lambda rung: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Climb[Built]:
    """Try one rung after the other until one passes the gate.

    What stops a build of any precision, as a full disk, a cancelled build, too little memory or a GPU on which nothing
    runs any more, is not caught here.

    Args:
        build: Builds and loads the engines of a rung.
        judge: Asks the parity gate.
        drop: Frees what was built and did not pass.
        files: Names of the graphs that were exported.
        rungs: What to try, in order.
        refusal: Returns why a rung is known to be of no use; None if it has to be tried.
        is_cancelled: Asked before each rung.

    Raises:
        BuildCancelledError: `is_cancelled` said so.
    """
    attempts: list[Attempt] = []

    def note(attempt: Attempt) -> None:
        attempts.append(attempt)
        _LOG.log(logging.INFO if attempt.outcome is Outcome.PASSED else logging.WARNING, '%s', attempt.describe())

    for rung in rungs:
        if is_cancelled():
            raise BuildCancelledError('the build of TensorRT engines was cancelled')
        if rung.encoder_file not in files:
            note(Attempt(rung, Outcome.SKIPPED, f'{rung.encoder_file} was not exported'))
            continue
        if reason := refusal(rung):
            note(Attempt(rung, Outcome.SKIPPED, reason))
            continue
        try:
            built = build(rung)
        except GpuFailedError:
            raise
        except EngineError as error:
            note(Attempt(rung, Outcome.NOT_BUILT, str(error)))
            continue
        try:
            verdict = judge(rung, built)
        except BaseException as error:
            drop(built)
            if not isinstance(error, EngineError) or isinstance(error, GpuFailedError):
                raise
            note(Attempt(rung, Outcome.WRONG, str(error)))
            continue
        note(Attempt(rung, Outcome.PASSED if verdict.passed else Outcome.WRONG, verdict.describe(), verdict))
        if verdict.passed:
            return Climb(built, tuple(attempts))
        drop(built)
    return Climb(None, tuple(attempts))

"""From exported graphs to a TensorRT back-end that gives the reference outputs: cache, build, gate and ladder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from fisa_ros.core.errors import EngineCacheError, EngineError, GpuFailedError
from fisa_ros.runtime.backend import Backend
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.engine_build import build_in_child
from fisa_ros.runtime.engine_cache import BuildRecord, CachedEngine, EngineCache
from fisa_ros.runtime.engine_inputs import ENCODER_OUTPUT_SPECS, HEAD_OUTPUT_SPECS, encoder_inputs, head_inputs
from fisa_ros.runtime.engine_key import EngineKey, Machine, default_options, external_data_sums
from fisa_ros.runtime.graph_files import HEAD_FILE, REFERENCE_FILE, GraphsDescription
from fisa_ros.runtime.parity_gate import GATE_VERSION, Arrays, ParityGate, ParityVerdict
from fisa_ros.runtime.precision_ladder import RUNGS, Attempt, Rung, climb

_LOG = logging.getLogger('fisa_ros.tensorrt')

# Takes arguments for the builder, the path of the plan and whether to stop.
Build = Callable[[Mapping[str, Any], Path, Callable[[], bool]], BuildRecord]


class CheckableBackend(Backend, Protocol):
    """A back-end that the parity gate can look into."""

    def run_graphs(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run one frame and return the outputs of both graphs, see `ParityGate.judge`."""
        ...


class Closable(Protocol):
    """Something that is freed by a call."""

    def close(self) -> None:
        """Free it."""
        ...


class Toolkit[Engine: Closable](Protocol):
    """What needs a GPU."""

    def read_machine(self) -> Machine:
        """Return what plans made here are bound to."""
        ...

    def open_engine(self, plan: Path) -> Engine:
        """Load a plan; raises `EngineError` if that cannot be."""
        ...

    def run_float32_head(self, inputs: Arrays) -> Arrays:
        """Return the outputs of the head in float32, see `ParityGate`."""
        ...

    def open_backend(self, encoder: Engine, head: Engine, precision: str) -> CheckableBackend:
        """Make a back-end, which owns the engines from then on, also if it raises `EngineError`."""
        ...


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Engines of one rung.

    Attributes:
        key: Key of the encoder, whose sidecar holds the verdict.
        subject: Sum of all that the verdict depends on.
        known: The verdict of an earlier start on the same subject.
        backend: The back-end.
    """

    key: EngineKey
    subject: str
    known: ParityVerdict | None
    backend: CheckableBackend


class EngineSupply[Engine: Closable]:
    """Gets a back-end from the cache, or builds it.

    Args:
        folder: The graphs.
        description: What they are; `open_graphs` has checked them.
        toolkit: What needs a GPU.
        progress: Told what is being done.
        cache: Where engines are kept.
        device: Number of the GPU.
        build: Writes a plan; in a child process by default.
        rungs: Precisions to try, in order.

    Attributes:
        attempts: The precisions that were tried, and what came of them.
    """

    def __init__(
        self,
        folder: Path,
        description: GraphsDescription,
        toolkit: Toolkit[Engine],
        progress: BuildProgress,
        cache: EngineCache,
        *,
        device: int = 0,
        build: Build = build_in_child,
        rungs: Sequence[Rung] = RUNGS,
    ) -> None:
        self._folder, self._description, self._toolkit = folder, description, toolkit
        self._progress, self._cache, self._device, self._build = progress, cache, device, build
        self._rungs = rungs
        self.attempts: tuple[Attempt, ...] = ()

    def get(self, is_cancelled: Callable[[], bool] = lambda: False) -> tuple[CheckableBackend, str]:
        """Return a back-end that passed the parity gate, and the verdict in one line.

        Blocks for as long as engines are built. The calling thread must live that long. What the builder cannot make
        and what does not pass the gate is remembered beside the engines, and not tried again at the next start.

        Raises:
            EngineError: No precision gives the reference outputs; the text says what came of each.
            GpuFailedError: An engine failed so that nothing runs on the GPU any more in this process.
            EngineCacheError: The cache cannot be written, or the disk is full.
            GpuMemoryError: The GPU has too little memory.
            GraphsError: The reference outputs are damaged.
            BuildCancelledError: `is_cancelled` said so.
        """
        gate = ParityGate.open(self._folder / REFERENCE_FILE, head=self._toolkit.run_float32_head)
        machine = self._toolkit.read_machine()
        found = climb(
            lambda rung: self._candidate(rung, machine, is_cancelled),
            lambda rung, candidate: self._verdict(gate, rung, machine, candidate, is_cancelled),
            lambda candidate: candidate.backend.close(),
            self._description.files,
            self._rungs,
            refusal=lambda rung: self._refusal(rung, machine),
            is_cancelled=is_cancelled,
        )
        self.attempts = found.attempts
        if found.built is None:
            raise EngineError(
                f'no TensorRT engine of model {self._description.model!r} gives the reference outputs: '
                f'{found.describe()}'
            )
        return found.built.backend, found.attempts[-1].describe()

    def forget_refusals(self) -> None:
        """Let all be tried again that was refused at an earlier start.

        Raises:
            EngineError: The GPU cannot be asked what it is.
            EngineCacheError: The cache cannot be written.
        """
        machine = self._toolkit.read_machine()
        for rung in self._rungs:
            if rung.encoder_file in self._description.files:
                self._cache.forget_refusal(self._encoder_key(rung, machine))
                self._cache.forget_refusal(self._head_key(rung, machine))

    def _refusal(self, rung: Rung, machine: Machine) -> str | None:
        encoder, head = self._encoder_key(rung, machine), self._head_key(rung, machine)
        refusal = self._cache.refusal(encoder, self._conditions(head)) or self._cache.refusal(head)
        return refusal.describe() if refusal else None

    def _candidate(self, rung: Rung, machine: Machine, is_cancelled: Callable[[], bool]) -> _Candidate:
        keys = (self._encoder_key(rung, machine), self._head_key(rung, machine))
        encoder, head = (self._cached(rung, key, is_cancelled) for key in keys)
        loaded_encoder, encoder = self._loaded(rung, keys[0], encoder, is_cancelled)
        try:
            loaded_head, head = self._loaded(rung, keys[1], head, is_cancelled)
        except BaseException:
            loaded_encoder.close()
            raise
        with self._remembered(*keys):
            backend = self._toolkit.open_backend(loaded_encoder, loaded_head, rung.name)
        return _Candidate(keys[0], self._subject(encoder, head), self._known_verdict(encoder, head), backend)

    def _cached(self, rung: Rung, key: EngineKey, is_cancelled: Callable[[], bool]) -> CachedEngine:
        label = f'{self._description.model} {rung.name} {key.graph} on {key.machine.gpu_name}'
        self._progress.enter(
            BuildState.BUILDING, f'{rung.name} engine of {key.graph}', self._cache.last_duration_s(label)
        )

        def build(plan_path: Path) -> BuildRecord:
            _LOG.info('building the %s engine of %s', rung.name, key.graph)
            return self._build(self._arguments(key), plan_path, is_cancelled)

        cached = self._cache.load_or_build(key, build, is_cancelled)
        if cached.is_new:
            self._cache.record_duration(label, cached.record.build_seconds)
        return cached

    def _loaded(
        self, rung: Rung, key: EngineKey, cached: CachedEngine, is_cancelled: Callable[[], bool]
    ) -> tuple[Engine, CachedEngine]:
        """Load a plan; one from the cache that does not load is built anew, once."""
        try:
            return self._toolkit.open_engine(cached.plan_path), cached
        except EngineError as error:
            if cached.is_new:
                raise
            _LOG.warning('an engine from the cache does not load and is built anew: %s', error)
        self._cache.discard(key)
        cached = self._cached(rung, key, is_cancelled)
        return self._toolkit.open_engine(cached.plan_path), cached

    def _verdict(
        self, gate: ParityGate, rung: Rung, machine: Machine, candidate: _Candidate, is_cancelled: Callable[[], bool]
    ) -> ParityVerdict:
        self._progress.enter(BuildState.VERIFYING, f'{rung.name} engines')
        if candidate.known is not None and candidate.known.passed:
            return candidate.known
        head = self._head_key(rung, machine)
        with self._remembered(candidate.key, head):
            verdict = gate.judge(candidate.backend.run_graphs, is_cancelled)
        self._cache.record_verdict(candidate.key, {'subject': candidate.subject, **verdict.to_json()})
        if not verdict.passed:
            self._cache.record_refusal(candidate.key, verdict.describe(), self._conditions(head))
        return verdict

    @contextmanager
    def _remembered(self, encoder: EngineKey, head: EngineKey) -> Iterator[None]:
        """Refuse engines that take the GPU down with them, or every start would end so."""
        try:
            yield
        except GpuFailedError as error:
            with suppress(EngineCacheError):
                self._cache.record_refusal(encoder, f'its run ended so: {error}', self._conditions(head))
            raise

    def _conditions(self, head: EngineKey) -> dict[str, str]:
        """Return what a verdict depends on besides the encoder."""
        reference = self._description.files[REFERENCE_FILE]
        return {'gate': str(GATE_VERSION), 'reference': reference, 'head': head.digest()}

    def _known_verdict(self, encoder: CachedEngine, head: CachedEngine) -> ParityVerdict | None:
        if encoder.parity is None or encoder.parity.get('subject') != self._subject(encoder, head):
            return None
        try:
            return ParityVerdict.from_json(encoder.parity)
        except ValueError:
            return None

    def _subject(self, encoder: CachedEngine, head: CachedEngine) -> str:
        parts = (str(GATE_VERSION), encoder.plan_sha256, head.plan_sha256, self._description.files[REFERENCE_FILE])
        return hashlib.sha256(' '.join(parts).encode()).hexdigest()

    def _encoder_key(self, rung: Rung, machine: Machine) -> EngineKey:
        return EngineKey(
            graph=rung.encoder_file,
            onnx_sha256=self._description.files[rung.encoder_file],
            external_data=external_data_sums(self._description.files),
            inputs=encoder_inputs(self._description),
            outputs=ENCODER_OUTPUT_SPECS,
            recipe=rung.name,
            options=default_options(machine, allows_tf32=rung.allows_tf32),
            machine=machine,
        )

    def _head_key(self, rung: Rung, machine: Machine) -> EngineKey:
        return EngineKey(
            graph=HEAD_FILE,
            onnx_sha256=self._description.files[HEAD_FILE],
            external_data=external_data_sums(self._description.files),
            inputs=head_inputs(self._description),
            outputs=HEAD_OUTPUT_SPECS,
            # The head is the same on all rungs but for the rounding of its products.
            recipe='tf32' if rung.allows_tf32 else 'fp32',
            options=default_options(machine, allows_tf32=rung.allows_tf32),
            machine=machine,
        )

    def _arguments(self, key: EngineKey) -> dict[str, Any]:
        return {
            'onnx': str(self._folder / key.graph),
            'inputs': [asdict(entry) for entry in key.inputs],
            'options': asdict(key.options),
            'timing_cache': str(self._cache.timing_cache_path(key.machine)),
            'device': self._device,
        }

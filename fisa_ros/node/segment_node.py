"""The node `segment`: images and words in, labelled pixels out."""

from collections.abc import Callable
from contextlib import ExitStack
import gc
import logging
import os
import signal
import sys
import time

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions, install_signal_handlers, uninstall_signal_handlers
from rclpy.utilities import try_shutdown
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from fisa_ros.core.errors import FisaError
from fisa_ros.core.vocabulary import VocabularyRegistry
from fisa_ros.node import conversions
from fisa_ros.node.awaiting import Awaiting
from fisa_ros.node.camera_stream import CameraStream, Frame
from fisa_ros.node.diagnostics import build_diagnostics
from fisa_ros.node.frame_worker import FrameWorker
from fisa_ros.node.job_thread import JobThread
from fisa_ros.node.logging_bridge import attach_package_log, detach_package_log
from fisa_ros.node.parameters import ParameterStore, read_overrides
from fisa_ros.node.segment_image import SegmentImageService
from fisa_ros.node.segment_parameters import CameraParameters, SegmentParameters, model_defaults
from fisa_ros.node.transitions import ManagedNode, transition
from fisa_ros.node.vocabulary_holder import VocabularyHolder
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.srv import GetVocabulary, SegmentImage, SetVocabulary

_log = logging.getLogger(__name__)

SegmenterFactory = Callable[[SegmentParameters], Segmenter]

_REPORT_PERIOD_S = 1.0
# For all threads together: the node is to be gone two seconds after a signal, whatever it was at.
_END_TIMEOUT_S = 1.0
# With the ten of the default a burst of calls loses some without a word, and their callers wait for ever.
_SERVICE_QOS = QoSProfile(depth=128, reliability=ReliabilityPolicy.RELIABLE)


def load_segmenter(parameters: SegmentParameters) -> Segmenter:
    """Load the model that the parameters name.

    Raises:
        FisaError: It cannot be loaded; the text says why.
    """
    return Segmenter.load(parameters.model, parameters.backend, parameters.device, parameters.precision)


class SegmentNode(ManagedNode):
    """Wires the parts: topics and services in the executor's thread, frames in a second, words in a third."""

    def __init__(self, segmenter_factory: SegmenterFactory = load_segmenter) -> None:
        """Declare the parameters and the services; the model is loaded by configuring.

        Args:
            segmenter_factory: Loads the model.

        Raises:
            ParameterError: A parameter that does not exist or has a value that it cannot have.
        """
        super().__init__('segment')
        self._log_handler = attach_package_log(self)
        self._store, cameras = _declare_parameters(self)
        self._segmenter_factory = segmenter_factory
        self._is_enabled = True

        registry = VocabularyRegistry(self.parameters.max_class_id, self.parameters.id_quarantine_s)
        self._words = VocabularyHolder(registry, on_change=lambda: self._worker.wake())
        self._streams = [
            CameraStream(
                self, name, own, self.parameters.id_quarantine_s, self._accept, on_depth=lambda: self._worker.wake()
            )
            for name, own in cameras.items()
        ]
        self._worker = FrameWorker(
            self._streams,
            in_use=lambda: self._words.in_use,
            parameters=lambda: self.parameters,
            stamp=lambda: self.get_clock().now().to_msg(),
            is_shut_down=self._is_shut_down,
        )

        awaited = ReentrantCallbackGroup()
        self._awaiting = Awaiting(self, awaited)
        self._jobs = JobThread()
        segment_image = SegmentImageService(self._worker, self._awaiting)
        for srv_type, name, answer, group in (
            (SegmentImage, 'segment_image', segment_image.answer, awaited),
            (SetVocabulary, 'set_vocabulary', self._set_vocabulary, awaited),
            (GetVocabulary, 'get_vocabulary', self._get_vocabulary, None),
            (SetBool, 'set_enabled', self._set_enabled, None),
        ):
            self.create_service(srv_type, name, answer, qos_profile=_SERVICE_QOS, callback_group=group)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        # A simulated clock may stand still or jump back, and that is when one looks at the diagnostics.
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def parameters(self) -> SegmentParameters:
        """The values in use at this moment."""
        return self._store.current

    def bring_up(self) -> bool:
        """Configure and activate; return False if that failed, which the log explains."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                return False
        return True

    def end(self) -> None:
        """Stop the threads, as far as they can be stopped in a moment, and destroy the node."""
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        self._awaiting.close()
        self._worker.stop(_END_TIMEOUT_S)
        self._jobs.close(max(0.0, deadline_s - time.monotonic()))
        detach_package_log(self._log_handler)
        super().destroy_node()
        # rclpy leaves it to the garbage collector, and a thread that is still at work holds the node: the middleware
        # of Kilted would then leave its shared memory behind.
        self._state_machine.destroy_when_not_in_use()

    @transition
    def on_configure(self, _: LifecycleState) -> None:
        """Load the model, encode the vocabulary, warm up and create the outputs."""
        parameters = self.parameters
        _log.info(f'loading {parameters.model}')
        with ExitStack() as undo:
            # Opened first, the outputs have found their listeners when the first result is there.
            for stream in self._streams:
                undo.callback(stream.close_outputs)
                stream.open_outputs()
            in_use = self._jobs.run(
                lambda: self._words.load(lambda: self._segmenter_factory(parameters), parameters.vocabulary),
                self._is_shut_down,
            )
            undo.pop_all()
        backend, vocabulary = in_use.segmenter.backend, in_use.vocabulary
        names = conversions.names_to_text([entry.name for entry in vocabulary.classes])
        _log.info(
            f'{in_use.segmenter.manifest.name} on {backend.name} ({backend.device}, {backend.precision}), '
            f'vocabulary version {vocabulary.version}: {names}'
        )

    @transition
    def on_activate(self, _: LifecycleState) -> None:
        """Receive images and serve them."""
        with ExitStack() as undo:
            undo.callback(self._stop_frames)
            for stream in self._streams:
                stream.open_input()
            self._worker.start()
            undo.pop_all()
        for stream in self._streams:
            _log.info(f'active: waiting for images on {stream.topic}')

    @transition
    def on_deactivate(self, _: LifecycleState) -> None:
        """Stop receiving, after the frame at work."""
        self._stop_frames()

    @transition
    def on_cleanup(self, _: LifecycleState) -> None:
        """Free the model; parameters and vocabulary stay."""
        self._release()

    @transition
    def on_shutdown(self, _: LifecycleState) -> None:
        """Stop and free the model."""
        self._release()

    @transition
    def on_error(self, _: LifecycleState) -> None:
        """Go back to the unconfigured state after an unexpected error."""
        self._release()

    def _is_shut_down(self) -> bool:
        return not self.context.ok()

    def _state(self) -> str:
        if self._worker.is_running:
            return 'active'
        return 'unconfigured' if self._words.in_use is None else 'inactive'

    def _stop_frames(self) -> None:
        for stream in self._streams:
            stream.close_input()
        self._worker.stop()
        for stream in self._streams:
            stream.forget_waiting()

    def _release(self) -> None:
        self._stop_frames()
        for stream in self._streams:
            stream.close_outputs()
        self._jobs.run(self._words.unload, self._is_shut_down)

    def _accept(self, stream: CameraStream, frame: Frame) -> None:
        if self._is_enabled:
            self._worker.put(stream, frame)

    async def _set_vocabulary(
        self, request: SetVocabulary.Request, response: SetVocabulary.Response
    ) -> SetVocabulary.Response:
        try:
            answer = self._jobs.submit(lambda: self._words.change(conversions.request_from_srv(request)))
            change = await self._awaiting.result_of(answer)
        except FisaError as error:
            vocabulary = self._words.vocabulary
            response.version = 0 if vocabulary is None else vocabulary.version
            response.message = str(error)
            _log.warning(f'vocabulary refused: {error}')
            return response
        names = conversions.names_to_text([entry.name for entry in change.vocabulary.classes])
        response.success = True
        response.message = f'{len(change.vocabulary.classes)} classes: {names}' if change.is_new else 'nothing changed'
        response.version = change.vocabulary.version
        response.class_ids = list(change.vocabulary.class_ids)
        response.encode_ms = change.encode_ms
        _log.info(f'vocabulary version {response.version}, {response.message}')
        return response

    def _get_vocabulary(self, _: GetVocabulary.Request, response: GetVocabulary.Response) -> GetVocabulary.Response:
        return conversions.vocabulary_to_srv(self._words.vocabulary, response)

    def _set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._is_enabled = request.data
        if not self._is_enabled:
            self._worker.clear()
        response.success = True
        response.message = 'running' if self._is_enabled else 'paused'
        return response

    def _report(self) -> None:
        for stream in self._streams:
            stream.check_input()
        # A back-end may have changed since, which is announced although no frame comes.
        if self._worker.is_running:
            self._worker.wake()
        message = build_diagnostics(
            self.get_fully_qualified_name(),
            self._state(),
            self._is_enabled,
            self._words.in_use,
            [(stream.label, *stream.report()) for stream in self._streams],
            Header(stamp=self.get_clock().now().to_msg()),
        )
        self._diagnostics.publish(message)


def _declare_parameters(node: SegmentNode) -> tuple[ParameterStore[SegmentParameters], dict[str, CameraParameters]]:
    """Return the node's parameters, and those of each camera by its name."""
    overrides = read_overrides(node)
    given = overrides.get('cameras', SegmentParameters.cameras)
    names = [name for name in given if name] if isinstance(given, list | tuple) else []
    defaults = model_defaults(str(overrides.get('model', SegmentParameters.model)))
    store = ParameterStore(node, defaults, other_prefixes=[f'{name}.' for name in names])
    shared = store.current.per_camera
    cameras = {
        name: ParameterStore(node, shared, prefix=f'{name}.').current if name else shared
        for name in store.current.cameras
    }
    return store, cameras


def run(args: list[str] | None = None, segmenter_factory: SegmenterFactory = load_segmenter) -> int:
    """Run the node until it is interrupted; return the exit code of the process."""
    # A signal in the midst of creating the node would leave it with half a context: until then it ends the process.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = SegmentNode(segmenter_factory)
    except FisaError as error:
        rclpy.logging.get_logger('segment').error(f'cannot start: {error}')
        try_shutdown()
        return 1
    install_signal_handlers(SignalHandlerOptions.ALL)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    code = 0
    try:
        if not node.parameters.autostart or node.bring_up():
            _spin(node, executor)
        elif node.context.ok():
            code = 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        # A signal can end the context between any two calls.
        if node.context.ok():
            raise
    _ignore_signals()
    executor.shutdown()
    node.end()
    try_shutdown()
    return code


def _spin(node: SegmentNode, executor: SingleThreadedExecutor) -> None:
    """Serve until interrupted; what a callback lets out is logged, and the others go on."""
    while True:
        try:
            executor.spin()
            return
        except ExternalShutdownException:
            raise
        except Exception:
            if not node.context.ok():
                raise
            # Of rclpy's own services some fail so on nonsense, such as a parameter of a type that does not exist.
            _log.exception('a call or a message could not be served')


def _ignore_signals() -> None:
    # Ctrl-C in a terminal reaches a node twice, directly and through `ros2 launch`; the end is on its way already.
    uninstall_signal_handlers()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Entry point of `segment_node`."""
    code = run()
    # The node is full of cycles; only without it the middleware gives its shared memory back.
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything that matters is closed. Python would spend seconds on taking large libraries apart, and might crash if
    # a thread is still inside one.
    os._exit(code)

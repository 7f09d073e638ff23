"""Makes an encoder whose products are of eight-bit integers, for CPUs that have instructions for them.

Convolutions get the ranges of their inputs from frames, products of matrices at run time (Wu et al., Integer
Quantization for Deep Learning Inference, 2020): transformers have outliers that no range from a few frames holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
import io
import logging
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from fisa_ros.runtime.graph_files import (
    ENCODER_FILE,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    HEAD_FILE,
    HEAD_INPUTS,
    HEAD_OUTPUTS,
    INT8_ENCODER_FILE,
    REFERENCE_FILE,
)
from fisa_ros.runtime.parity_gate import Arrays, Limits, ParityGate

# Rarer values are cut off, which keeps more of the eight bits for all others.
_PERCENTILE = 99.99
# Larger models take seconds for a frame on a CPU anyway, and minutes and gigabytes to quantise.
_MAX_BYTES = 1 << 28
INT8_LIMITS = Limits(cosine=0.9, label_agreement=0.97, mask_iou=0.9)
_LOG = logging.getLogger('fisa_ros.export')


def add_int8_encoder(folder: Path) -> None:
    """Write `encoder_int8.onnx` beside encoder, head and reference outputs, if it agrees well enough with them.

    Args:
        folder: The exported graphs.
    """
    source, target = folder / ENCODER_FILE, folder / INT8_ENCODER_FILE
    size = sum(path.stat().st_size for path in folder.glob(f'{ENCODER_FILE}*'))
    if size > _MAX_BYTES:
        _LOG.info('%s has %d MB: no int8 graph is made above %d MB', source.name, size >> 20, _MAX_BYTES >> 20)
        return
    _LOG.info('making %s', target.name)
    gate = ParityGate.open(folder / REFERENCE_FILE, INT8_LIMITS)
    try:
        quantize(source, target, [gate.inputs(frame) for frame in range(gate.num_frames)])
    except Exception as error:
        # Of whatever class: the quantiser knows fewer graphs than the runtime, and all else works without it.
        target.unlink(missing_ok=True)
        _LOG.warning('no %s is made: %s', target.name, error)
        return
    verdict = gate.judge(_GraphPair(target, folder / HEAD_FILE).run)
    if verdict.passed:
        _LOG.info('%s: %s', target.name, verdict.describe())
    else:
        target.unlink()
        _LOG.warning('no %s is kept: %s', target.name, verdict.describe())


def quantize(source: Path, target: Path, frames: Sequence[Arrays]) -> None:
    """Write an encoder with int8 convolutions and matrix products; inputs and outputs stay as they are.

    Args:
        source: The float32 encoder.
        target: The file to write.
        frames: Inputs of the encoder by name; each image also serves mirrored.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix='.int8.') as temporary, _quiet():
        whole, inferred, static = (Path(temporary) / f'{name}.onnx' for name in ('whole', 'inferred', 'static'))
        # In one file: the quantiser loses weights that lie beside it.
        onnx.save(onnx.load(str(source)), str(whole))
        quant_pre_process(str(whole), str(inferred), skip_symbolic_shape=True)
        quantize_static(
            str(inferred),
            str(static),
            _Frames(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['Conv'],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={'CalibPercentile': _PERCENTILE},
        )
        quantize_dynamic(
            str(static),
            str(target),
            op_types_to_quantize=['MatMul', 'Gemm'],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, frames: Sequence[Arrays]) -> None:
        self._inputs = iter(
            [
                {**{name: frame[name] for name in ENCODER_INPUTS}, 'image': np.ascontiguousarray(image)}
                for frame in frames
                for image in (frame['image'], frame['image'][:, ::-1])
            ]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._inputs, None)


class _GraphPair:
    """Encoder and head one after the other, as the parity gate wants them."""

    def __init__(self, encoder: Path, head: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._encoder, self._head = (
            onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
            for path in (encoder, head)
        )

    def run(self, inputs: Arrays) -> Mapping[str, NDArray[Any]]:
        encoded = self._encoder.run(ENCODER_OUTPUTS, _wanted(self._encoder, inputs))
        outputs = dict(zip(ENCODER_OUTPUTS, encoded, strict=True))
        segmented = self._head.run(HEAD_OUTPUTS, {**_wanted(self._head, inputs), **outputs})
        return outputs | dict(zip(HEAD_OUTPUTS, segmented, strict=True))


def _wanted(session: onnxruntime.InferenceSession, inputs: Arrays) -> dict[str, NDArray[Any]]:
    names = {entry.name for entry in session.get_inputs()} & {*ENCODER_INPUTS, *HEAD_INPUTS}
    return {name: inputs[name] for name in names if name in inputs}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from users what the quantiser prints, and advice that it gives to the root logger."""

    def is_ours(record: logging.LogRecord) -> bool:
        return record.name != 'root'

    root = logging.getLogger()
    root.addFilter(is_ours)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(is_ours)

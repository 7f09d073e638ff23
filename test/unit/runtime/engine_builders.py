"""Builders for child processes, good and bad; `engine_build` imports them by name."""

from contextlib import suppress
import os
from pathlib import Path
import signal
import sys
import time

from fisa_ros.core.errors import EngineError, EngineRefusedError, GpuMemoryError


def write(arguments, plan_path, is_cancelled):
    plan_path.write_bytes(arguments['plan'].encode())
    return {'half_layer_share': 0.75, 'workspace_bytes': 5, 'pid': os.getpid(), 'niceness': os.nice(0)}


def nothing(arguments, plan_path, is_cancelled):
    return None


def no_plan(arguments, plan_path, is_cancelled):
    return {}


def empty_plan(arguments, plan_path, is_cancelled):
    plan_path.touch()
    return {}


def refuse(arguments, plan_path, is_cancelled):
    raise EngineRefusedError('node 7 (GridSample) is not supported')


def out_of_gpu_memory(arguments, plan_path, is_cancelled):
    raise GpuMemoryError('the GPU has 12 MiB left, 300 MiB are needed')


def bug(arguments, plan_path, is_cancelled):
    raise KeyError('words')


def full_disk(arguments, plan_path, is_cancelled):
    with Path('/dev/full').open('wb') as file:
        file.write(b'x' * 10_000)


def too_large(arguments, plan_path, is_cancelled):
    plan_path.write_bytes(b'x' * (1 << 20))


def fill_up(arguments, plan_path, is_cancelled):
    plan_path.write_bytes(b'plan')
    with suppress(OSError):
        plan_path.with_name('filler').write_bytes(b'x' * (1 << 20))
    return {}


def crash(arguments, plan_path, is_cancelled):
    print('tactic 0x3f: about to fail', flush=True)
    plan_path.write_bytes(b'half')
    os.kill(os.getpid(), getattr(signal, arguments['signal']))
    time.sleep(60)


def leave(arguments, plan_path, is_cancelled):
    print('fatal: libnvinfer said so', file=sys.stderr, flush=True)
    os._exit(3)


def until_cancelled(arguments, plan_path, is_cancelled):
    plan_path.with_name('started').write_text(str(os.getpid()))
    while not is_cancelled():
        time.sleep(0.02)
    plan_path.with_name('stopped').touch()
    raise EngineError('the builder returned nothing')


def deaf(arguments, plan_path, is_cancelled):
    plan_path.with_name('started').write_text(str(os.getpid()))
    print('measuring tactics', flush=True)
    time.sleep(60)


def note_and_write(arguments, plan_path, is_cancelled):
    """Write a plan that says what it was built of; what went wrong is scripted by files beside the graph."""
    onnx = Path(arguments['onnx'])
    rounding = 'tf32' if arguments['options']['allows_tf32'] else 'exact'
    with (onnx.parent / 'builds').open('a') as file:
        file.write(f'{onnx.name} {rounding}\n')
    if (onnx.parent / f'{onnx.name}.refused').exists():
        raise EngineRefusedError(f'{onnx.name} has a node that is not supported')
    if (onnx.parent / f'{onnx.name}.crash').exists():
        os.kill(os.getpid(), signal.SIGSEGV)
    plan_path.write_text(f'{onnx.name} {rounding}')
    return {'half_layer_share': 0.5 if 'fp16' in onnx.name else 0.0}

"""What a benchmark ran on: processor, versions, memory."""

from importlib.metadata import PackageNotFoundError, version
import os
from pathlib import Path
import platform
import subprocess
from typing import Any

_PACKAGES = {
    'fisa_ros': 'fisa_ros',
    'numpy': 'numpy',
    'opencv': 'opencv-python-headless',
    'onnxruntime': 'onnxruntime',
    'torch': 'torch',
    'tensorrt': 'tensorrt',
}
_PROC = Path('/proc')


def describe_machine() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, and the versions of what is installed."""
    versions = {'python': platform.python_version()}
    for name, distribution in _PACKAGES.items():
        try:
            versions[name] = version(distribution)
        except PackageNotFoundError:
            continue
    return {'cpu': cpu_model(), 'cores': len(os.sched_getaffinity(0)), 'versions': versions}


def cpu_model() -> str:
    """Return the name of the processor, or of the board where the processor does not tell."""
    for line in _read(_PROC / 'cpuinfo').splitlines():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return board_model() or platform.machine()


def board_model() -> str:
    """Return the name of a board such as "NVIDIA Jetson AGX Orin Developer Kit"; empty elsewhere."""
    return _read(_PROC / 'device-tree' / 'model').rstrip('\0').strip()


def memory_mb(pid: int | str = 'self') -> dict[str, float]:
    """Return the memory of a process in 10^6 bytes: `rss`, of it `shared` (as with other processes), and `peak`."""
    lines = dict(line.split(':', 1) for line in _read(_PROC / str(pid) / 'status').splitlines() if ':' in line)
    keys = {'rss': 'VmRSS', 'shared': 'RssShmem', 'peak': 'VmHWM'}
    kib = {name: int(lines[key].split()[0]) for name, key in keys.items() if key in lines}
    return {name: value * 1024e-6 for name, value in kib.items()}


def cpu_seconds(pid: int) -> float:
    """Return the time that all threads of a process have computed, its ended children not counted."""
    fields = _read(_PROC / str(pid) / 'stat').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def describe_gpu(device: str) -> tuple[str, float | None] | None:
    """Return the name of a GPU and its memory in use by all processes (10^6 bytes, None if unknown), if it is there.

    Args:
        device: "cuda:0".
    """
    number = device.partition(':')[2] or '0'
    command = ['nvidia-smi', '-i', number, '--query-gpu=name,memory.used', '--format=csv,noheader,nounits']
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        board = board_model()
        return (board, None) if board else None
    name, _, used_mib = printed.strip().partition(',')
    is_known = used_mib.strip().isdecimal()
    return board_model() or name.strip(), int(used_mib) * (1 << 20) * 1e-6 if is_known else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''

import pytest

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.runtime import machine_peak


def test_gpus_are_known_by_a_part_of_their_name():
    assert machine_peak.known_gpu_peak('NVIDIA H200').gb_s == 4800
    assert machine_peak.known_gpu_peak('NVIDIA Jetson AGX Orin Developer Kit').gflops == 42_500
    assert machine_peak.known_gpu_peak('NVIDIA Jetson Orin NX').gflops == 15_000
    assert machine_peak.known_gpu_peak('Other 9000') is None


def test_a_cpu_is_measured(monkeypatch):
    monkeypatch.setattr(machine_peak, '_SECONDS', 0.01)
    monkeypatch.setattr(machine_peak, '_MATRIX_SIZE', 64)
    monkeypatch.setattr(machine_peak, '_COPY_BYTES', 1 << 20)
    peak = machine_peak.measure_cpu_peak(2)
    assert peak.gflops > 0
    assert peak.gb_s > 0
    assert peak.source.startswith('measured with 2 threads: float32 product of 64x64 matrices, copy of 1 MiB')


def test_what_cannot_be_measured_is_said(monkeypatch):
    monkeypatch.setattr(machine_peak.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(BackendUnavailableError, match='cannot be measured without onnx'):
        machine_peak.measure_cpu_peak(1)

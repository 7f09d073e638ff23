"""What the TensorRT back-end calls exists in NVIDIA's bindings, with these arguments; needs pip and a C compiler."""

from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).absolute().parents[3]
CHECK = ROOT / 'tooling' / 'check_tensorrt_api.py'
ENGINE = ROOT / 'fisa_ros' / 'runtime' / 'tensorrt_engine.py'
MEMORY = ROOT / 'fisa_ros' / 'runtime' / 'cuda_memory.py'
NO_INDEX = 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run_check(work, *files):
    command = [sys.executable, str(CHECK), '--work', str(work), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """Folder in which the wheels lie, after the back-end itself has been checked."""
    if shutil.which('cc') is None:
        pytest.skip('no C compiler')
    folder = tmp_path_factory.mktemp('bindings')
    finished = run_check(folder)
    if finished.returncode == NO_INDEX:
        pytest.skip(finished.stdout.strip())
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert '3 modules fit TensorRT 10.16.1.11 and 11.4.0.106' in finished.stdout
    return folder


def altered(tmp_path, source, before, after):
    text = source.read_text(encoding='utf-8')
    assert text.count(before) >= 1, f'{before} is no longer in {source.name}'
    path = tmp_path / source.name
    path.write_text(text.replace(before, after), encoding='utf-8')
    return path


@pytest.mark.parametrize(
    ('source', 'before', 'after', 'versions', 'message'),
    [
        (ENGINE, 'trt.BuilderFlag.TF32', 'trt.BuilderFlag.FP16', ('11.4.0.106',), 'tensorrt has no BuilderFlag.FP16'),
        (
            ENGINE,
            'config.builder_optimization_level',
            'config.builder_optimisation_level',
            ('10.16.1.11', '11.4.0.106'),
            '"IBuilderConfig" has no attribute "builder_optimisation_level"',
        ),
        (
            ENGINE,
            'config.set_timing_cache(cache, False)',
            'config.set_timing_cache(cache)',
            ('10.16.1.11', '11.4.0.106'),
            'Missing positional argument "ignore_mismatch"',
        ),
        (
            ENGINE,
            "_required(builder.create_network(flags), 'TensorRT cannot make a network', logger)",
            'builder.create_network(flags)',
            ('10.16.1.11', '11.4.0.106'),
            'INetworkDefinition | None',
        ),
        (
            MEMORY,
            'runtime.cudaGraphInstantiate(graph, 0)',
            'runtime.cudaGraphInstantiate(graph)',
            ('10.16.1.11', '11.4.0.106'),
            'cudaGraphInstantiate',
        ),
    ],
)
def test_the_check_finds_what_does_not_fit(work, tmp_path, source, before, after, versions, message):
    finished = run_check(work, altered(tmp_path, source, before, after))
    assert finished.returncode == 1, finished.stdout + finished.stderr
    found = [line for line in finished.stdout.splitlines() if message in line]
    assert [version for version in ('10.16.1.11', '11.4.0.106') if any(version in line for line in found)] == list(
        versions
    ), finished.stdout

"""The sizes whose weights are not shipped, with random ones: exported in bounded memory, the same on ONNX Runtime."""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.graph_cost import count_cost
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend

MEASURE = (
    'import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); '
    'print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)'
)
WORDS = 'chair, seat; table; lamp; door; cup'


def available_gib() -> float:
    fields = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    return int(fields['MemAvailable'].split()[0]) / 2**20


@pytest.fixture
def roomy(tmp_path) -> Iterator[Path]:
    """A folder whose gigabytes do not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize(
    ('model', 'peak_gib', 'gflop'), [('fisa-s', 3.0, 378), ('fisa-l', 6.5, 2659), ('pooled-l', 6.5, 1899)]
)
def test_export_in_bounded_memory_and_parity(roomy, model, peak_gib, gflop) -> None:
    # ONNX Runtime packs the weights anew and holds both.
    needed = 1.5 * peak_gib
    if available_gib() < needed:
        pytest.skip(f'{model} needs {needed:.0f} GiB of memory, {available_gib():.0f} are free')
    frames = roomy / 'frames'
    frames.mkdir()
    shutil.copy(share_dir() / 'models' / 'reference_frames' / 'room_1.jpg', frames)
    command = [sys.executable, '-m', 'fisa_ros.tools.export', '--model', model, '--random-weights', '--json']
    command += ['--out', str(roomy / model), '--frames', str(frames), '--vocabulary', WORDS]
    environment = {**os.environ, 'XDG_CACHE_HOME': str(roomy / 'cache')}
    run = subprocess.run(
        [sys.executable, '-c', MEASURE, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stderr.split()[-1]) / 2**20 < peak_gib
    summary = json.loads(run.stdout)
    manifest, folder = load_manifest(summary['manifest']), Path(summary['folder'])
    assert count_cost(folder / graph_files.ENCODER_FILE).flop / 1e9 == pytest.approx(gflop, rel=0.01)
    reference = dict(np.load(folder / graph_files.REFERENCE_FILE))
    backend = OnnxRuntimeBackend(manifest, folder)
    state = Segmenter(backend, manifest).prepare(VocabularyRegistry().propose(VocabularyRequest.parse(WORDS)))
    # What the text tower of torch made of the same words.
    np.testing.assert_allclose(state.text_embeddings, reference['text_embeddings'], atol=1e-4)
    found = backend.segment(reference['image'][0], state, manifest.thresholds)
    backend.close()
    assert (found.query_map == reference['query_map'][0]).mean() > 0.999
    np.testing.assert_array_equal(found.class_index, reference['class_index'][0])
    np.testing.assert_allclose(found.score, reference['score'][0], atol=1e-3)
    assert len(np.unique(found.query_map)) > 20

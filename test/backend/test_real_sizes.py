"""The sizes whose weights are not shipped, with random ones: exported in bounded memory, the same on ONNX Runtime.

Once as the network is built, and once by way of checkpoints as they are published.
"""

from collections.abc import Callable, Iterator
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import open_clip
import pytest
from safetensors.torch import save_file
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation

from fisa_ros.core.manifest import ModelManifest, load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.networks.assemble import assemble_model
from fisa_ros.networks.weights import write_tensors
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.graph_cost import count_cost
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend, open_session, session_options
from fisa_ros.runtime.parity_gate import Arrays, ParityGate

MEASURE = (
    'import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); '
    'print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)'
)
WORDS = 'chair, seat; table; lamp; door; cup'
# Of random checkpoints.
SPREAD = 100.0
LAYER_SCALE = 0.1


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


def write_checkpoints(manifest: ModelManifest, folder: Path) -> dict[str, Path]:
    """Write random checkpoints of the layouts and names that the manifest gives, and return the folder of each part."""
    parts = {part: folder / part for part in ('generator', 'classifier')}
    torch.manual_seed(0)
    with torch.no_grad():
        generator = EomtForUniversalSegmentation(EomtConfig(**manifest.generator['config']))
        # Random masks are near zero everywhere, where rounding decides; those of trained weights are not.
        generator.mask_head.fc3.weight.mul_(SPREAD)
        generator.save_pretrained(parts['generator'])
        del generator
        clip = open_clip.create_model(manifest.classifier['model'])
        for name, parameter in clip.visual.named_parameters():
            if name.endswith('gamma'):
                parameter.fill_(LAYER_SCALE)
        parts['classifier'].mkdir()
        path = parts['classifier'] / manifest.sources['classifier'].files[0].name
        tensors = {name: value.contiguous() for name, value in clip.state_dict().items()}
        if path.suffix == '.safetensors':
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
    return parts


def graph_pair(folder: Path, encoder_file: str) -> Callable[[Arrays], Arrays]:
    """Return what runs an encoder and the head on ONNX Runtime, one after the other."""
    options = session_options(len(os.sched_getaffinity(0)))
    encoder, head = (open_session(folder / file, options) for file in (encoder_file, graph_files.HEAD_FILE))

    def run(inputs: Arrays) -> Arrays:
        # The pooled classifier takes no words, and its graph has no input for them.
        names = [entry.name for entry in encoder.get_inputs()]
        encoded = encoder.run(graph_files.ENCODER_OUTPUTS, {name: inputs[name] for name in names})
        given = {**inputs, **dict(zip(graph_files.ENCODER_OUTPUTS, encoded, strict=True))}
        segmented = head.run(graph_files.HEAD_OUTPUTS, {name: given[name] for name in graph_files.HEAD_INPUTS})
        return {**given, **dict(zip(graph_files.HEAD_OUTPUTS, segmented, strict=True))}

    return run


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize(('model', 'peak_gib'), [('fisa-s', 3.0), ('fisa-l', 6.5), ('pooled-l', 6.5)])
def test_checkpoints_as_they_are_published_pass_the_gate(roomy, monkeypatch, model, peak_gib) -> None:
    needed = 1.5 * peak_gib
    if available_gib() < needed:
        pytest.skip(f'{model} needs {needed:.0f} GiB of memory, {available_gib():.0f} are free')
    monkeypatch.setenv('FISA_ROS_MODELS', str(roomy / 'models'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(roomy / 'cache'))
    manifest = load_manifest(model)
    parts = write_checkpoints(manifest, roomy)
    manifest.weights.path.parent.mkdir(parents=True)
    write_tensors(assemble_model(manifest, parts), manifest.weights.path)
    command = [sys.executable, '-m', 'fisa_ros.tools.export', '--model', model, '--json', '--vocabulary', WORDS]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    folder = Path(json.loads(run.stdout)['folder'])
    gate = ParityGate.open(folder / graph_files.REFERENCE_FILE)
    for name in graph_files.ENCODER_FILES:
        verdict = gate.judge(graph_pair(folder, name))
        assert verdict.passed, f'{name}: {verdict.describe()}'

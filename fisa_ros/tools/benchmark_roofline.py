"""How near encoder and head come to the limits of the machine (Williams et al., Roofline, 2009)."""

from collections.abc import Mapping
from dataclasses import asdict
import importlib.util
import os
from typing import Any

from fisa_ros.core.errors import BackendUnavailableError, FisaError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.backend import Backend
from fisa_ros.runtime.machine_peak import MachinePeak, known_gpu_peak, measure_cpu_peak
from fisa_ros.tools.benchmark_machine import describe_gpu

# Back-ends that compute what the exported graphs say.
_OF_THE_GRAPHS = ('onnxruntime', 'torch', 'tensorrt')


def graph_costs(manifest: ModelManifest, backend: Backend, state: VocabularyState) -> dict[str, Any]:
    """Return `flop`, `weight_bytes` and `activation_bytes` of "encoder" and "head", or a text `not_available`."""
    if backend.name not in _OF_THE_GRAPHS:
        return {'not_available': f'back-end {backend.name!r} does not run the exported graphs'}
    if importlib.util.find_spec('onnx') is None:
        return {'not_available': 'onnx is not installed: pip install onnx'}
    from fisa_ros.runtime.graph_cost import count_cost

    folder = graph_files.graphs_folder(manifest)
    classes, synonyms = state.synonym_mask.shape
    try:
        graph_files.open_graphs(folder, manifest)
        return {
            stage: asdict(count_cost(folder / file, {'classes': classes, 'synonyms': synonyms}))
            for stage, file in (('encoder', graph_files.ENCODER_FILE), ('head', graph_files.HEAD_FILE))
        }
    except FisaError as error:
        return {'not_available': str(error)}


def find_peak(device: str, threads: int | None, gflops: float | None, gb_s: float | None) -> MachinePeak | None:
    """Return the limits of what a back-end ran on: those given, else measured on a CPU and looked up for a GPU.

    Args:
        device: Of the back-end.
        threads: Its threads on a CPU; None is one per core.
        gflops: As the user gives it.
        gb_s: As the user gives it.
    """
    if gflops is not None and gb_s is not None:
        return MachinePeak(gflops, gb_s, 'given by the user')
    if device != 'cpu':
        gpu = describe_gpu(device)
        found = known_gpu_peak(gpu[0]) if gpu else None
    else:
        try:
            found = measure_cpu_peak(threads or len(os.sched_getaffinity(0)))
        except BackendUnavailableError:
            found = None
    if found is None or (gflops is None and gb_s is None):
        return found
    return MachinePeak(gflops or found.gflops, gb_s or found.gb_s, f'one given by the user, the other {found.source}')


def roofline(costs: Mapping[str, Any], stages_ms: Mapping[str, float], peak: MachinePeak | None) -> dict[str, Any]:
    """Return what each graph has to do, and how fast it did.

    Args:
        costs: See `graph_costs`.
        stages_ms: Time of each stage.
        peak: Limits of the machine, if they are known.
    """
    if 'not_available' in costs:
        return dict(costs)
    report: dict[str, Any] = {'peak': None if peak is None else asdict(peak)}
    for stage, cost in costs.items():
        if stage not in stages_ms:
            continue
        seconds = max(stages_ms[stage], 1e-6) * 1e-3
        moved = cost['weight_bytes'] + cost['activation_bytes']
        gflops, gb_s = cost['flop'] / seconds * 1e-9, moved / seconds * 1e-9
        report[stage] = {
            **cost,
            'gflops': gflops,
            'flop_per_byte': cost['flop'] / moved if moved else 0.0,
            'share_of_peak_gflops': None if peak is None else gflops / peak.gflops,
            'share_of_peak_gb_s': None if peak is None else gb_s / peak.gb_s,
        }
    return report

"""Variants of a model with fewer masks, whose number is fixed in exported graphs, to be measured like any other."""

import importlib.util
import logging

from fisa_ros.core.errors import BackendUnavailableError, GraphsError
from fisa_ros.core.manifest import ModelManifest, load_manifest
from fisa_ros.core.resources import cache_dir, share_dir
from fisa_ros.evaluation.frame_files import read_frames
from fisa_ros.runtime.graph_files import graphs_folder, open_graphs, source_key
from fisa_ros.tools.benchmark_configuration import Configuration

_log = logging.getLogger('fisa_ros.benchmark')
_VOCABULARY = 'indoor'


def open_manifest(configuration: Configuration) -> ModelManifest:
    """Return the model of a configuration; of a variant, weights and graphs are made in the cache the first time.

    Raises:
        BackendUnavailableError: There is something to make, and no PyTorch.
        FisaError: The model is not there, has fewer masks, or their number cannot be changed.
    """
    manifest = load_manifest(configuration.model)
    if configuration.masks is None:
        return manifest
    if importlib.util.find_spec('torch') is None:
        raise BackendUnavailableError(
            f'masks={configuration.masks} needs PyTorch, to export a variant of the model: pip install torch'
        )
    from fisa_ros.networks.query_subset import count_queries, write_query_subset

    if configuration.masks == count_queries(manifest):
        return manifest
    height, width = manifest.image_size_hw
    frames = read_frames(share_dir() / 'models' / 'reference_frames', (width, height), resize=manifest.resize)
    folder = cache_dir() / 'masks' / f'{manifest.name}-{source_key(manifest)[:16]}-{configuration.masks}'
    variant = load_manifest(write_query_subset(manifest, folder, configuration.masks, frames))
    graphs = graphs_folder(variant)
    try:
        open_graphs(graphs, variant)
    except GraphsError:
        from fisa_ros.tools.export import export_model

        _log.warning('exporting %s with %d masks, which is kept in %s', manifest.name, configuration.masks, graphs)
        export_model(variant, graphs, frames, _VOCABULARY)
    return variant

"""SIMO: which parameters of a classifier are trained. Reconstruction from the published description."""

from collections.abc import Sequence

from torch import nn

from fisa_ros.core.errors import DataError
from fisa_ros.networks.segmentation_network import SegmentationNetwork

SIMO_SETS = ('queries', 'seve', 'void', 'scale', 'projection', 'norms', 'blocks', 'stem')
DEFAULT_SIMO_SETS = ('queries', 'seve', 'void')


def simo_parameters(network: SegmentationNetwork, sets: Sequence[str] = DEFAULT_SIMO_SETS) -> list[nn.Parameter]:
    """Return the parameters in `sets`, each once, in the order of the network whatever the order of the sets.

    Args:
        network: The network; its generator is in no set.
        sets: 'queries': query projections of the mask tokens; 'seve': SEVE with its gates; 'void': the void
            embedding; 'scale': the logit scale; 'projection': CLIP's projection to D; 'norms': CLIP's layer
            normalisations; 'blocks': all of CLIP's blocks; 'stem': patch, class and position embeddings. What a
            network was built without adds nothing.

    Raises:
        DataError: A set is none of `SIMO_SETS`.
    """
    unknown = sorted(set(sets) - set(SIMO_SETS))
    if unknown:
        raise DataError(f'SIMO sets must be among {", ".join(SIMO_SETS)}, got {", ".join(unknown)}')
    tower, head = network.trainable_tower, network.head
    visual = tower.visual
    norms = [module for module in visual.modules() if isinstance(module, nn.LayerNorm)]
    members: dict[str, list[nn.Parameter]] = {
        'queries': list(tower.mask_queries.parameters()),
        'seve': list(tower.seve.parameters()),
        'void': [head.void_embedding],
        'scale': [head.logit_scale],
        'projection': [visual.proj],
        'norms': [parameter for norm in norms for parameter in norm.parameters()],
        'blocks': list(visual.transformer.resblocks.parameters()),
        'stem': [*visual.conv1.parameters(), visual.class_embedding, visual.positional_embedding],
    }
    chosen = {id(parameter) for name in sets for parameter in members[name]}
    return [parameter for parameter in network.parameters() if id(parameter) in chosen]


def apply_simo(network: SegmentationNetwork, sets: Sequence[str] = DEFAULT_SIMO_SETS) -> list[nn.Parameter]:
    """Freeze everything in `network` but `sets` and return what is trained, as `simo_parameters` does.

    Raises:
        DataError: A set is none of `SIMO_SETS`.
    """
    trained = simo_parameters(network, sets)
    network.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    # Batch normalisations frozen just now stop counting at once.
    network.train(network.training)
    return trained

"""Builds what a manifest describes, with its weights."""

from fisa_ros.core.manifest import ModelManifest, verify_weights
from fisa_ros.networks.build import build_network, build_text_encoder
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.networks.weights import load_text_weights, load_weights


def load_network(manifest: ModelManifest) -> SegmentationNetwork:
    """Return the network of a model.

    Raises:
        ManifestError: The manifest names something that cannot be built.
        WeightsError: Weights are missing, damaged or do not fit.
    """
    verify_weights(manifest)
    network = build_network(manifest.generator, manifest.classifier)
    load_weights(network, manifest.weights.path)
    return network


def load_text_encoder(manifest: ModelManifest) -> TextEncoder:
    """Return the text encoder of a model.

    Raises:
        ManifestError: The manifest names something that cannot be built.
        WeightsError: Weights are missing, damaged or do not fit.
    """
    verify_weights(manifest)
    encoder = build_text_encoder(manifest.text_encoder)
    load_text_weights(encoder, manifest.weights.path)
    return encoder

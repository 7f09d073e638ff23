from dataclasses import replace
from hashlib import sha256
import json

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.runtime.graph_files import GRAPH_FORMAT, graphs_folder, source_key


def test_padded_images_have_graphs_of_their_own_and_stretched_ones_keep_theirs():
    manifest = load_manifest('fisa-tiny')
    assert manifest.resize == STRETCH
    parts = {
        'format': GRAPH_FORMAT,
        'image_size_hw': manifest.image_size_hw,
        'weights': manifest.weights.sha256,
        'generator': manifest.generator,
        'classifier': manifest.classifier,
        'text_encoder': manifest.text_encoder,
    }
    assert source_key(manifest) == sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    padded = [replace(manifest, resize=Resize('pad', color)) for color in ((0, 0, 0), (124, 116, 104))]
    assert len({graphs_folder(entry) for entry in (manifest, *padded)}) == 3

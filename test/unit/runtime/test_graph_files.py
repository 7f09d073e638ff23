from dataclasses import replace

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.runtime.graph_files import graphs_folder


def test_padded_images_have_graphs_of_their_own():
    manifest = load_manifest('fisa-tiny')
    assert manifest.resize == STRETCH
    padded = [replace(manifest, resize=Resize('pad', color)) for color in ((0, 0, 0), (124, 116, 104))]
    assert len({graphs_folder(entry) for entry in (manifest, *padded)}) == 3

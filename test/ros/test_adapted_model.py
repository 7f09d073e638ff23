"""A model adapted to a site, exported and served: from images with masks to pixels of a new class."""

from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
from sensor_msgs.msg import Image

from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.msg import SegmentArray
from fisa_ros.sources.image_folder import read_image

SEGMENT_NODE = Path(__file__).absolute().parents[2] / 'scripts' / 'segment_node'
START_TIMEOUT_S = 120.0


def run(tool: str, *arguments: object) -> None:
    subprocess.run([sys.executable, '-m', f'fisa_ros.tools.{tool}', *map(str, arguments)], check=True)


@pytest.mark.slow
def test_a_new_class_is_seen_by_the_node(client, start_node, tmp_path) -> None:
    run('simulate', '--style', 'warehouse', '--views-per-room', 1, '--size', '320x240',
        '--split', 'train', '--images', 6, '--out', tmp_path, '--processes', 1)  # fmt: skip
    run('adapt', '--images', tmp_path / 'train', '--out', tmp_path / 'out', '--name', 'site',
        '--steps', 50, '--views', 3, '--threads', 1, '--force')  # fmt: skip
    manifest, words = tmp_path / 'out' / 'site.yaml', tmp_path / 'out' / 'site_vocabulary.yaml'
    run('export', '--model', manifest, '--vocabulary', words)

    node = start_node(
        executable=SEGMENT_NODE, model=str(manifest), vocabulary=str(words), backend='onnxruntime', device='cpu'
    )
    node.wait_for_log('active', START_TIMEOUT_S)
    assert 'site on onnxruntime (cpu' in node.log
    vocabulary = VocabularyRegistry().propose(VocabularyRequest.parse(str(words)))
    assert client.get_vocabulary().classes == [entry.text for entry in vocabulary.classes]
    base = len(VocabularyRequest.parse('indoor').classes)
    new = {entry.id: entry.name for entry in vocabulary.classes[base:]}
    assert new
    masks, segments = client.listen('segmentation/mask', Image), client.listen('segmentation/segments', SegmentArray)
    for count, path in enumerate(sorted((tmp_path / 'train').iterdir()), start=1):
        client.publish_until(lambda count=count: min(len(masks), len(segments)) >= 2 * count, read_image(path))
    shown = {(m.header.stamp.sec, m.header.stamp.nanosec): set(np.frombuffer(m.data, np.uint8).tolist()) for m in masks}
    assert new.keys() & set.union(*shown.values())
    for message in segments:
        ids = shown.get((message.header.stamp.sec, message.header.stamp.nanosec), set()) - {0}
        assert ids <= {segment.class_id for segment in message.segments}

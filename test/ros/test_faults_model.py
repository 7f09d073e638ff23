"""The disk and the files of the model fail while fisa-tiny serves."""

from contextlib import suppress
import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fisa_ros.core.resources import cache_dir

ROOT = Path(__file__).absolute().parents[2]
SEGMENT_NODE = ROOT / 'scripts' / 'segment_node'


@pytest.fixture
def own_cache(tmp_path) -> Path:
    """A cache folder of the node's own: what the set-up exported, as copies."""
    folder = tmp_path / 'own_cache'
    shutil.copytree(cache_dir() / 'fisa-tiny', folder / 'fisa_ros' / 'fisa-tiny')
    return folder


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A file system of 64 kB."""
    folder = tmp_path / 'small_disk'
    folder.mkdir()
    try:
        subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip('needs the right to mount')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.fixture
def serve(client):
    """Publishes a noise image until one that was sent from now on is answered."""
    image = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)

    def until_answered(answers) -> None:
        count = len(answers)
        sent = client.publish_until(lambda: len(answers) >= count + 2, image)
        assert (answers[-1].header.stamp.sec, answers[-1].header.stamp.nanosec) in sent

    return until_answered


def listen(client):
    from fisa_ros.msg import SegmentArray

    return client.listen('segmentation/segments', SegmentArray)


def test_weights_deleted_while_running(client, start_node, own_cache, serve) -> None:
    node = start_node(executable=SEGMENT_NODE, environment={'XDG_CACHE_HOME': str(own_cache)}, backend='onnxruntime')
    answers = listen(client)
    serve(answers)
    graphs = own_cache / 'fisa_ros' / 'fisa-tiny'
    kept = own_cache / 'kept'
    for _ in range(2):
        graphs.rename(kept)
        serve(answers)
        assert client.set_vocabulary('floor', 'chair').success
        serve(answers)
        assert client.change_state('deactivate')
        assert client.change_state('cleanup')
        assert not client.change_state('configure')
        assert client.state() == 'unconfigured'
        kept.rename(graphs)
        assert client.change_state('configure')
        assert client.change_state('activate')
        assert client.get_vocabulary().classes == ['floor', 'chair']
        serve(answers)
    assert 'cannot configure: ' in node.log
    assert 'Traceback' not in node.log


def test_weights_cut_short(client, start_node, own_cache, serve) -> None:
    whole = {graph: graph.read_bytes() for graph in (own_cache / 'fisa_ros' / 'fisa-tiny').rglob('*.onnx')}
    for graph, content in whole.items():
        graph.write_bytes(content[: len(content) // 2])
    node = start_node(
        executable=SEGMENT_NODE,
        environment={'XDG_CACHE_HOME': str(own_cache)},
        backend='onnxruntime',
        autostart='false',
    )
    assert not client.change_state('configure')
    assert client.state() == 'unconfigured'
    for graph, content in whole.items():
        graph.write_bytes(content)
    assert client.change_state('configure')
    assert client.change_state('activate')
    serve(listen(client))
    assert 'cannot configure: ' in node.log
    assert 'Traceback' not in node.log


def test_a_full_disk_keeps_no_words_from_being_set(client, start_node, small_disk, serve) -> None:
    folder = small_disk / 'fisa_ros'
    folder.mkdir()
    (folder / 'fisa-tiny').symlink_to(cache_dir() / 'fisa-tiny')
    node = start_node(executable=SEGMENT_NODE, environment={'XDG_CACHE_HOME': str(small_disk)})
    answers = listen(client)
    serve(answers)
    with suppress(OSError):
        (small_disk / 'rest').write_bytes(bytes(1 << 20))
    for version, words in enumerate((['striped sofa', 'floor'], ['brass lamp'], ['striped sofa', 'floor']), start=2):
        answer = client.set_vocabulary(*words)
        assert (answer.success, answer.version) == (True, version)
        serve(answers)
    assert node.log.count('cannot write text cache') == 1
    assert 'No space left on device' in node.log
    assert 'Traceback' not in node.log
    assert not list(folder.rglob('.*.part'))


def test_logs_on_a_full_disk(client, start_node, small_disk, serve) -> None:
    with suppress(OSError):
        (small_disk / 'rest').write_bytes(bytes(1 << 20))
    start_node(executable=SEGMENT_NODE, environment={'ROS_LOG_DIR': str(small_disk)})
    answers = listen(client)
    serve(answers)
    assert client.set_vocabulary('floor', 'chair').success
    serve(answers)


def test_nowhere_to_print(client, serve) -> None:
    with Path('/dev/full').open('w') as full:
        environment = os.environ | {'PYTHONUNBUFFERED': '1'}
        process = subprocess.Popen([sys.executable, str(SEGMENT_NODE)], stdout=full, stderr=full, env=environment)
        try:
            answers = listen(client)
            serve(answers)
            assert not client.set_vocabulary('').success
            assert client.set_vocabulary('floor', 'chair').success
            serve(answers)
        finally:
            process.terminate()
            assert process.wait(20) == 0

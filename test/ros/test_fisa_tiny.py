"""The shipped model in the shipped node."""

from pathlib import Path
import shutil

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import pytest
from sensor_msgs.msg import Image

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.msg import SegmentArray
from fisa_ros.runtime.graph_files import graphs_folder

SEGMENT_NODE = Path(__file__).absolute().parents[2] / 'scripts' / 'segment_node'
START_TIMEOUT_S = 120.0


@pytest.fixture
def copied_model(tmp_path: Path) -> Path:
    """A copy of the shipped manifest and its weights."""
    manifest = tmp_path / 'fisa-tiny.yaml'
    shutil.copy(share_dir() / 'models' / 'fisa-tiny.yaml', manifest)
    shutil.copy(load_manifest('fisa-tiny').weights.path, tmp_path)
    return manifest


def test_images_and_words_go_in_and_labelled_pixels_come_out(client, start_node, stripes) -> None:
    node = start_node(executable=SEGMENT_NODE, device='cpu')
    node.wait_for_log('active', START_TIMEOUT_S)
    assert 'fisa-tiny on onnxruntime (cpu' in node.log
    indoor = VocabularyRequest.parse('indoor')
    assert client.get_vocabulary().classes == list(indoor.classes)
    outputs = {name: client.listen(f'segmentation/{name}', Image) for name in ('mask', 'instances', 'overlay')}
    segments = client.listen('segmentation/segments', SegmentArray)
    image = stripes((480, 640))
    client.publish_until(lambda: segments and all(outputs.values()), image)
    assert all((m.height, m.width) == (480, 640) for messages in outputs.values() for m in messages)
    assert {m.vocabulary_version for m in segments} == {1}

    answer = client.set_vocabulary('cat', 'dog', 'grass, lawn')
    assert answer.success, answer.message
    segments.clear()
    client.publish_until(lambda: segments and segments[-1].vocabulary_version == 2, image)
    shared_memory = node.shared_memory()
    assert shared_memory
    assert node.interrupt() == 0
    assert not [path for path in shared_memory if path.exists()]
    assert 'Traceback' not in node.log


@pytest.mark.parametrize('damage', ['missing', 'truncated', 'flipped'])
def test_damaged_weights_keep_the_node_from_starting(start_node, copied_model, damage) -> None:
    weights = copied_model.with_name('fisa-tiny.safetensors')
    content = bytearray(weights.read_bytes())
    if damage == 'missing':
        weights.unlink()
    elif damage == 'truncated':
        weights.write_bytes(content[:-1000])
    else:
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    node = start_node(executable=SEGMENT_NODE, model=str(copied_model), backend='torch', device='cpu')
    assert node.wait(START_TIMEOUT_S) == 1
    assert [line for line in node.log.splitlines() if 'cannot configure' in line and str(weights) in line], node.log
    assert 'Traceback' not in node.log


def test_exported_graphs_are_enough(client, start_node, copied_model, stripes) -> None:
    copied_model.with_name('fisa-tiny.safetensors').unlink()
    node = start_node(executable=SEGMENT_NODE, model=str(copied_model), vocabulary='"wall; floor"')
    node.wait_for_log('active', START_TIMEOUT_S)
    segments = client.listen('segmentation/segments', SegmentArray)
    client.publish_until(lambda: segments, stripes((480, 640)))
    assert client.set_vocabulary('a word that nobody encoded before').success


@pytest.mark.parametrize('damage', ['missing', 'truncated', 'flipped'])
def test_damaged_graphs_keep_a_backend_that_was_asked_for_from_starting(start_node, tmp_path, damage) -> None:
    graphs = graphs_folder(load_manifest('fisa-tiny'))
    folder = tmp_path / 'fisa_ros' / 'fisa-tiny' / graphs.name
    shutil.copytree(graphs, folder)
    encoder = folder / 'encoder.onnx'
    content = bytearray(encoder.read_bytes())
    if damage == 'missing':
        encoder.unlink()
    elif damage == 'truncated':
        encoder.write_bytes(content[:-1000])
    else:
        content[len(content) // 2] ^= 1
        encoder.write_bytes(content)
    environment = {'XDG_CACHE_HOME': str(tmp_path)}
    node = start_node(executable=SEGMENT_NODE, backend='onnxruntime', environment=environment)
    assert node.wait(START_TIMEOUT_S) == 1
    assert [line for line in node.log.splitlines() if 'cannot configure' in line and str(encoder) in line], node.log
    assert 'export anew' in node.log
    assert 'Traceback' not in node.log
    node = start_node(executable=SEGMENT_NODE, device='cpu', vocabulary='"wall; floor"', environment=environment)
    node.wait_for_log('active', START_TIMEOUT_S)
    assert 'fisa-tiny on torch (cpu' in node.log
    assert [line for line in node.log.splitlines() if '[WARN]' in line and str(encoder) in line], node.log


def test_tensorrt_that_is_missing_is_a_warning_in_log_and_diagnostics(client, start_node, stripes) -> None:
    node = start_node(executable=SEGMENT_NODE, backend='tensorrt', vocabulary='"wall; floor"')
    node.wait_for_log('active', START_TIMEOUT_S)
    reports = client.listen('/diagnostics', DiagnosticArray, is_matched=False)
    client.spin_until(lambda: reports)
    (status,) = [entry for entry in reports[-1].status if entry.name.endswith(': model')]
    values = {pair.key: pair.value for pair in status.values}
    assert status.level == DiagnosticStatus.WARN
    assert values['backend'] == 'onnxruntime'
    assert "back-end 'tensorrt' needs" in values['engines']
    assert "back-end 'tensorrt' needs" in status.message
    lines = [line for line in node.log.splitlines() if '[WARN]' in line and "back-end 'tensorrt' needs" in line]
    assert len(lines) == 1
    segments = client.listen('segmentation/segments', SegmentArray)
    client.publish_until(lambda: segments, stripes((480, 640)))


def test_a_cache_that_cannot_be_written_is_a_warning(client, start_node, tmp_path) -> None:
    cache = tmp_path / 'cache'
    cache.write_text('a file where the folder should be')
    node = start_node(
        executable=SEGMENT_NODE, device='cpu', vocabulary='"wall; floor"', environment={'XDG_CACHE_HOME': str(cache)}
    )
    node.wait_for_log('active', START_TIMEOUT_S)
    assert [line for line in node.log.splitlines() if '[WARN]' in line and str(cache) in line], node.log
    assert client.set_vocabulary('cat', 'dog').success

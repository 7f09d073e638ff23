"""What keeps the node from starting: one clear line and an exit code that is not zero."""

from pathlib import Path

import pytest

SEGMENT_NODE = Path(__file__).absolute().parents[2] / 'scripts' / 'segment_node'


@pytest.mark.parametrize(
    ('parameters', 'text'),
    [
        ({'model': 'fisa-huge'}, "cannot configure: unknown model 'fisa-huge'"),
        ({'model': '/nowhere/model.yaml'}, 'cannot configure: model manifest /nowhere/model.yaml cannot be read'),
        ({'model': 'fisa-s', 'device': 'cpu'}, "cannot configure: no weights are shipped for model 'fisa-s'; to get"),
        ({'model': 'fisa-s', 'device': 'cpu'}, 'to get them: python -m fisa_ros.tools.models download fisa-s; to try'),
        (
            {'model': 'fisa-s', 'backend': 'onnxruntime'},
            'tools.export --model fisa-s --random-weights',
        ),
        ({'backend': 'foo'}, 'cannot start: parameter backend must be one of auto, torch, onnxruntime, tensorrt'),
        ({'backend': 'tensorrt', 'device': 'cpu'}, "cannot configure: back-end 'tensorrt' runs on a GPU"),
        ({'backend': 'onnxruntime', 'device': 'cuda'}, "cannot configure: back-end 'onnxruntime' runs on the CPU"),
        ({'precision': 'int4'}, 'cannot start: parameter precision must be one of auto, fp32'),
        ({'device': 'gpu'}, "cannot configure: unknown device 'gpu'"),
        ({'device': 'cuda:99'}, "cannot configure: device 'cuda:99' is not there"),
        ({'mask_encoding': 'mono32'}, 'cannot start: parameter mask_encoding must be one of mono8, mono16'),
        ({'score_threshold': '1.5'}, 'cannot start: parameter score_threshold must be in [0.0, 1.0], got 1.5'),
        ({'score_threshold': '1'}, 'cannot start: parameter score_threshold is a decimal number: write 1.0'),
        ({'autostart': 'maybe'}, "cannot start: parameter autostart must be of type bool, got 'maybe'"),
        ({'scor_threshold': '0.3'}, 'cannot start: there is no parameter scor_threshold, did you mean score_threshold'),
        ({'vocabulary': 'words.yaml'}, 'cannot configure: vocabulary file words.yaml does not exist'),
        ({'vocabulary': '""'}, 'cannot configure: the vocabulary is empty'),
    ],
)
def test_the_reason_is_one_line_and_the_exit_code_tells(start_node, parameters, text) -> None:
    node = start_node(executable=SEGMENT_NODE, **parameters)
    assert node.wait() == 1
    assert [line for line in node.log.splitlines() if '[ERROR]' in line and text in line], node.log
    assert 'Traceback' not in node.log


def test_a_parameter_of_another_node_is_ignored_with_a_warning(client, start_node, colours) -> None:
    node = start_node(vocabulary=colours, robot_radius='0.4')
    node.wait_for_log('active')
    assert 'parameter robot_radius is not one of this node and is ignored' in node.log


def test_a_failing_configuration_leaves_a_node_without_autostart_alone(client, start_node) -> None:
    node = start_node(executable=SEGMENT_NODE, model='fisa-huge', autostart='false')
    assert not client.change_state('configure')
    assert "cannot configure: unknown model 'fisa-huge'" in node.log
    assert client.state() == 'unconfigured'
    assert node.process.poll() is None

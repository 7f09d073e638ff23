"""What the node says about itself once a second."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool


@pytest.fixture
def reports(client):
    return client.listen('/diagnostics', DiagnosticArray, is_matched=False)


def latest(reports, suffix):
    return next((status for status in reports[-1].status if status.name.endswith(suffix)), None) if reports else None


def values(status):
    return {pair.key: pair.value for pair in status.values}


def test_the_model_and_the_vocabulary_in_use(client, start_node, colours, reports) -> None:
    start_node(vocabulary=colours, autostart='false')
    client.spin_until(lambda: reports)
    assert latest(reports, ': model').message == 'unconfigured'
    assert client.change_state('configure')
    client.spin_until(lambda: latest(reports, ': model').message == 'inactive')
    assert client.change_state('activate')
    client.set_vocabulary('red', 'green')
    client.spin_until(lambda: values(latest(reports, ': model')).get('vocabulary_version') == '2')
    assert values(latest(reports, ': model')) == {
        'state': 'active',
        'enabled': 'true',
        'model': 'nearest-colour',
        'backend': 'nearest-colour',
        'device': 'cpu',
        'precision': 'fp32',
        'vocabulary_version': '2',
        'classes': '2',
    }
    client.call('set_enabled', SetBool.Request(data=False))
    client.spin_until(lambda: latest(reports, ': model').message == 'paused')


def test_silence_work_and_trouble_of_a_camera(client, start_node, colours, reports) -> None:
    start_node(vocabulary=colours)
    client.spin_until(lambda: reports and latest(reports, '/image').message == 'no image')
    assert latest(reports, '/image').level == DiagnosticStatus.WARN

    client.publish_until(lambda: latest(reports, '/image').message.endswith('frames/s'))
    status = latest(reports, '/image')
    assert status.level == DiagnosticStatus.OK
    assert status.name == '/segment: /image'
    assert float(values(status)['input_rate_hz']) > 0
    assert float(values(status)['max_latency_ms']) >= float(values(status)['max_inference_ms']) > 0
    assert float(values(status)['max_inference_ms']) >= float(values(status)['mean_inference_ms']) > 0

    client.images.publish(Image(encoding='strange', width=4, height=4, step=4))
    # No image after it: a newer one might take its place before it is looked at.
    client.spin_until(lambda: "encoding 'strange' is not supported" in latest(reports, '/image').message)
    # An error if no other frame was answered in the same second.
    assert latest(reports, '/image').level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
    client.publish_until(lambda: latest(reports, '/image').level == DiagnosticStatus.OK)
    assert "encoding 'strange' is not supported" in values(latest(reports, '/image'))['last_error']
    assert values(latest(reports, '/image'))['refused'] == '1'

    client.spin_until(lambda: latest(reports, '/image').level == DiagnosticStatus.STALE)
    assert latest(reports, '/image').message.startswith('no image for')


def test_a_gpu_that_fails_for_good(client, start_node, colours, reports) -> None:
    """Frames go on, and the node says that it is not well."""
    start_node('--fail-gpu', vocabulary=colours)
    client.spin_until(lambda: reports and values(latest(reports, ': model')).get('backend') == 'nearest-colour-gpu')
    assert latest(reports, ': model').level == DiagnosticStatus.OK
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    client.publish_until(lambda: masks and latest(reports, ': model').level == DiagnosticStatus.ERROR)
    status = latest(reports, ': model')
    reason = 'nearest-colour-gpu failed 5 frames in a row, at last so: running on the GPU failed'
    assert 'nearest-colour on cpu serves; lost, ' in status.message
    assert reason in status.message
    assert reason in values(status)['engines']
    assert (values(status)['backend'], values(status)['device']) == ('nearest-colour', 'cpu')
    # The fifth was answered.
    client.spin_until(lambda: values(latest(reports, '/image'))['refused'] == '4')
    assert 'running on the GPU failed' in values(latest(reports, '/image'))['last_error']

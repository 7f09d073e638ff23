"""What one frame yields, on real topics."""

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from fisa_ros.msg import SegmentArray

IMAGE_TOPICS = {'mask': 'mono8', 'instances': 'mono16', 'confidence': 'mono8', 'overlay': 'rgb8'}


def pixels(msg: Image) -> np.ndarray:
    dtype = np.uint16 if msg.encoding == 'mono16' else np.uint8
    shape = (msg.height, msg.width, 3) if msg.encoding == 'rgb8' else (msg.height, msg.width)
    return np.frombuffer(msg.data, dtype).reshape(shape)


def test_every_output_of_a_frame(client, start_node, colours, stripes, latched) -> None:
    start_node(vocabulary=colours)
    outputs = {name: client.listen(f'segmentation/{name}', Image) for name in IMAGE_TOPICS}
    outputs['segments'] = client.listen('segmentation/segments', SegmentArray)
    outputs['detections'] = client.listen('segmentation/detections', Detection2DArray)
    client.publish_until(lambda: all(outputs.values()))
    client.spin_for(0.2)
    for messages in outputs.values():
        messages.clear()
    image = stripes((90, 120))
    image[:30] = 0
    stamp = client.publish(image, frame_id='head_camera')
    client.spin_until(lambda: all(outputs.values()))

    for name, (msg,) in outputs.items():
        assert (msg.header.stamp.sec, msg.header.stamp.nanosec) == stamp, name
        assert msg.header.frame_id == 'head_camera', name
    for name, encoding in IMAGE_TOPICS.items():
        (msg,) = outputs[name]
        assert (msg.encoding, msg.height, msg.width) == (encoding, 90, 120), name
        assert msg.step * msg.height == len(msg.data), name
        assert msg.is_bigendian == 0, name
    mask, instances, confidence = (pixels(outputs[name][0]) for name in ('mask', 'instances', 'confidence'))
    segments = outputs['segments'][0]
    assert segments.vocabulary_version == 1
    assert [(s.class_id, s.class_name, s.is_thing) for s in sorted(segments.segments, key=lambda s: s.class_id)] == [
        (1, 'red', True),
        (2, 'green', True),
        (3, 'blue', True),
    ]
    for segment in segments.segments:
        ys, xs = np.nonzero(instances == segment.id)
        assert set(mask[ys, xs]) == {segment.class_id}
        assert set(confidence[ys, xs]) == {round(segment.score * 255)}
        assert segment.area == len(xs)
        roi = segment.roi
        assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (
            xs.min(),
            ys.min(),
            np.ptp(xs) + 1,
            np.ptp(ys) + 1,
        )
    assert mask[80, 10] == 1
    assert mask[80, 60] == 2
    assert mask[80, 110] == 3
    (detections,) = outputs['detections']
    assert {d.id for d in detections.detections} == {str(s.id) for s in segments.segments}
    left = next(d for d in detections.detections if d.results[0].hypothesis.class_id == 'red')
    assert left.bbox.center.position.x == pytest.approx(20, abs=2)
    assert left.bbox.size_x == pytest.approx(40, abs=3)


def test_stuff_is_not_a_detection_and_void_has_no_confidence(client, start_node) -> None:
    start_node(vocabulary='"red; green"', score_threshold='0.9')
    client.set_vocabulary('red', 'green', stuff_classes=['green'])
    detections = client.listen('segmentation/detections', Detection2DArray)
    masks = client.listen('segmentation/mask', Image)
    confidences = client.listen('segmentation/confidence', Image)
    client.publish_until(lambda: masks and confidences and detections)
    assert [d.results[0].hypothesis.class_id for d in detections[0].detections] == ['red']
    np.testing.assert_array_equal(pixels(masks[0]) == 0, pixels(confidences[0]) == 0)
    assert (pixels(masks[0]) == 0).mean() == pytest.approx(1 / 3, abs=0.05)


def test_mono16_masks(client, start_node) -> None:
    start_node(vocabulary='"red; green"', mask_encoding='mono16')
    answer = client.set_vocabulary('red', 'blue', class_ids=[0, 40000])
    assert (answer.success, list(answer.class_ids)) == (True, [1, 40000])
    masks = client.listen('segmentation/mask', Image)
    client.publish_until(lambda: masks)
    assert masks[0].encoding == 'mono16'
    assert set(np.unique(pixels(masks[0]))) == {0, 1, 40000}


def test_label_info_comes_before_the_first_mask_and_reaches_late_joiners(client, start_node, colours, latched) -> None:
    labels, masks = [], []
    # The order of sending: which topic finds its listener first is up to the discovery.
    for topic, msg_type, qos, times in (
        ('label_info', LabelInfo, latched, labels),
        ('mask', Image, QoSProfile(depth=10), masks),
    ):
        client.node.create_subscription(
            msg_type, f'segmentation/{topic}', lambda _, info, times=times: times.append(info['source_timestamp']), qos
        )
    start_node(vocabulary=colours, score_threshold='0.25')
    client.publish_until(lambda: labels and len(masks) >= 5)
    assert labels[0] < masks[0]
    assert len(labels) == 1

    late = client.listen('segmentation/label_info', LabelInfo, latched)
    info = client.listen('segmentation/vision_info', VisionInfo, latched)
    client.spin_until(lambda: late and info)
    assert {c.class_id: c.class_name for c in late[0].class_map} == {1: 'red', 2: 'green', 3: 'blue'}
    assert late[0].threshold == pytest.approx(0.25)
    assert late[0].header.stamp.sec > 0
    assert info[0].method == 'nearest-colour (nearest-colour on cpu, fp32)'
    assert info[0].database_version == 1


def test_labels_are_published_at_once_when_idle_and_only_on_a_real_change(client, start_node, colours, latched) -> None:
    start_node(vocabulary=colours)
    labels = client.listen('segmentation/label_info', LabelInfo, latched)
    infos = client.listen('segmentation/vision_info', VisionInfo, latched)
    client.spin_until(lambda: len(labels) == 1)
    assert client.set_vocabulary('green', 'red', 'blue').message == 'nothing changed'
    client.spin_for(0.3)
    assert len(labels) == 1

    assert client.set_vocabulary('green', 'mauve').version == 2
    client.spin_until(lambda: len(labels) == 2 and len(infos) == 2)
    assert {c.class_id: c.class_name for c in labels[1].class_map} == {2: 'green', 4: 'mauve'}
    assert infos[1].database_version == 2


@pytest.mark.parametrize('reliability', [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_reliable_and_best_effort_listeners_both_get_masks(client, start_node, colours, reliability) -> None:
    start_node(vocabulary=colours)
    masks = client.listen('segmentation/mask', Image, QoSProfile(depth=5, reliability=reliability))
    client.publish_until(lambda: masks)


def test_the_overlay_is_drawn_only_while_someone_listens(client, start_node, colours) -> None:
    node = start_node('--count-overlays', vocabulary=colours)
    masks = client.listen('segmentation/mask', Image)
    client.publish_until(lambda: len(masks) >= 3)
    assert 'overlay drawn' not in node.log
    overlays = client.listen('segmentation/overlay', Image, qos_profile_sensor_data)
    client.publish_until(lambda: overlays)
    assert 'overlay drawn' in node.log


def test_frames_that_come_too_fast_are_dropped_and_counted(client, start_node, colours) -> None:
    start_node('--segment-s', '0.2', vocabulary=colours)
    client.connect()
    reports = client.listen('/diagnostics', DiagnosticArray)
    masks = client.listen('segmentation/mask', Image)
    client.publish_until(lambda: masks and reports)

    def counts() -> list[int]:
        status = next(s for s in reports[-1].status if s.name.endswith('/image'))
        values = {pair.key: pair.value for pair in status.values}
        return [int(values[name]) for name in ('received', 'answered', 'dropped')]

    def is_settled() -> bool:
        received, answered, dropped = counts()
        return received == answered + dropped

    reports.clear()
    client.spin_until(lambda: len(reports) >= 2 and is_settled())
    before = counts()
    stamps = []
    for _ in range(20):
        stamps.append(client.publish())
        client.spin_for(0.02)
    client.spin_until(lambda: counts()[0] == before[0] + 20 and is_settled())
    assert counts()[2] - before[2] > 5
    answered = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in masks]
    assert answered == sorted(answered)
    assert answered[-1] == stamps[-1], 'the newest frame was not kept'

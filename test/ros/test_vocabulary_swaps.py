"""A thousand vocabulary changes against a running stream: every frame is made with exactly one vocabulary."""

import numpy as np
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from fisa_ros.msg import SegmentArray
from fisa_ros.srv import SetVocabulary

NUM_SWAPS = 1000
OLD = SetVocabulary.Request(classes=['red', 'green', 'blue'], class_ids=[1, 2, 3])
NEW = SetVocabulary.Request(classes=['crimson', 'lime', 'navy'], class_ids=[101, 102, 103])
FRAME_PERIOD_S = 0.01


def test_every_frame_is_made_with_one_vocabulary(client, start_node, latched) -> None:
    start_node('--segment-s', '0.008', vocabulary='"red; green; blue"')
    masks = client.listen('segmentation/mask', Image)
    instances = client.listen('segmentation/instances', Image)
    segments = client.listen('segmentation/segments', SegmentArray)
    labels = client.listen('segmentation/label_info', LabelInfo, latched)
    client.connect()
    masks.clear(), instances.clear(), segments.clear()
    sent = set()
    client.node.create_timer(FRAME_PERIOD_S, lambda: sent.add(client.publish()))

    ids_of_version = {1: {1, 2, 3}}
    for number in range(NUM_SWAPS):
        request = OLD if number % 2 else NEW
        answer = client.call('set_vocabulary', request)
        assert answer.success, answer.message
        assert answer.version == number + 2
        assert list(answer.class_ids) == list(request.class_ids)
        ids_of_version[answer.version] = set(request.class_ids)
    last = client.publish()
    sent.add(last)
    client.spin_until(lambda: any((m.header.stamp.sec, m.header.stamp.nanosec) >= last for m in segments))
    client.spin_for(0.2)

    def by_stamp(messages):
        return {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in messages}

    version_of = {stamp: m.vocabulary_version for stamp, m in by_stamp(segments).items()}
    assert set(version_of) <= sent
    assert len(version_of) == len(segments), 'a frame was answered twice'
    seen = []
    for stamp, mask in by_stamp(masks).items():
        if stamp not in version_of:
            continue
        ids = set(np.unique(mask.data)) - {0}
        assert ids == ids_of_version[version_of[stamp]]
        listed = {s.class_id for s in by_stamp(segments)[stamp].segments}
        assert listed == ids
        seen.append(min(ids))
    assert set(by_stamp(instances)) <= sent
    assert len(seen) > 100
    assert set(seen) == {1, 101}, 'the stream did not see both vocabularies'
    assert np.count_nonzero(np.diff(seen)) > 50, 'the vocabularies did not alternate in the stream'
    assert {c.class_id for c in labels[-1].class_map} == ids_of_version[NUM_SWAPS + 1]

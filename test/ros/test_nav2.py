"""The node as the source of Nav2's semantic layer, with the parameters that the package ships for it."""

from collections.abc import Callable, Iterator
import copy
from pathlib import Path
import signal
import time

from builtin_interfaces.msg import Time
from nav2_layer import CLASS_PARAMETERS, LAYER_PARAMETERS, SOURCE_PARAMETERS, Nav2Layer, Tile, stamp_ns
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header
from time_sync import ApproximateTime, ExactTime
import yaml

from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions
from fisa_ros.pipeline.reduced import reduce_map
from fisa_ros.simulation.camera import SceneRenderer, free_positions, view_pose
from fisa_ros.simulation.room import make_room
from fisa_ros.simulation.scene import FIELD_OF_VIEW_DEG, build_scene
from fisa_ros.tools.rviz_config import rviz_config

SEGMENT_NODE = Path(__file__).absolute().parents[2] / 'scripts' / 'segment_node'
CONFIG = share_dir() / 'config' / 'nav2_semantic_layer.yaml'
FRAME_PERIOD_S = 0.04
# Tiles below the camera of the tests, from left to right and from top to bottom.
HAZARD, FLOOR, SHARED, FURNITURE = slice(0, 11), slice(11, 21), 21, slice(22, 32)
SEEN, UNLABELLED = slice(6, 20), slice(0, 6)
# Declared by costmap_2d_ros.
COSTMAP_PARAMETERS = {
    'global_frame': str, 'robot_base_frame': str, 'rolling_window': bool, 'width': int, 'height': int,
    'resolution': float, 'robot_radius': float, 'update_frequency': float, 'publish_frequency': float,
    'transform_tolerance': float, 'plugins': list,
}  # fmt: skip
INFLATION_PARAMETERS = {'plugin': str, 'cost_scaling_factor': float, 'inflation_radius': float}


@pytest.fixture
def costmap() -> dict:
    return yaml.safe_load(CONFIG.read_text())['local_costmap']['local_costmap']['ros__parameters']


@pytest.fixture
def front(costmap) -> dict:
    return costmap['semantic_layer']['front']


def types(values: dict) -> dict:
    return {name: type(value) for name, value in values.items()}


def test_every_parameter_is_one_that_nav2_declares(costmap, front) -> None:
    layers = {name: costmap.pop(name) for name in costmap['plugins']}
    assert types(costmap) == COSTMAP_PARAMETERS
    assert types(layers.pop('inflation_layer')) == INFLATION_PARAMETERS
    (layer,) = layers.values()
    assert layer['plugin'] == 'semantic_segmentation_layer::SemanticSegmentationLayer'
    source = layer.pop(layer['observation_sources'])
    assert types(layer).items() <= types(LAYER_PARAMETERS).items()
    for class_type in source['class_types']:
        assert types(source.pop(class_type)) == types(CLASS_PARAMETERS)
    assert types(source).items() <= types(SOURCE_PARAMETERS).items()


def test_the_classes_are_those_of_the_indoor_vocabulary(front) -> None:
    names = [name for class_type in front['class_types'] for name in front[class_type]['classes']]
    assert len(names) == len(set(names))
    vocabulary = VocabularyRegistry().propose(VocabularyRequest.parse('indoor'))
    assert sorted(names) == sorted(entry.name for entry in vocabulary.classes)


def test_costs_are_costs(front) -> None:
    for class_type in front['class_types']:
        values = front[class_type]
        assert 0 <= values['base_cost'] <= values['max_cost'] <= 254
        assert 0 <= values['mark_confidence'] <= 254
    assert front['ground']['max_cost'] == 0


def test_what_comes_onto_a_floor_is_avoided_at_its_first_sight(front) -> None:
    costly = [front[class_type] for class_type in front['class_types'] if front[class_type]['max_cost']]
    assert costly
    for cost in costly:
        tile = Tile()
        for number in range(30):
            tile.push(1, 250.0, number * 0.1, front['ground']['dominant_priority'])
        tile.push(2, 250.0, 3.0, cost['dominant_priority'])
        assert tile.class_id == 2
        assert cost['base_cost'] > 0
        # A robot does not wait for a floor that was mistaken once.
        for number in range(31, 33):
            tile.push(1, 250.0, number * 0.1, front['ground']['dominant_priority'])
        assert tile.class_id == 1


def test_topics_are_absolute(front) -> None:
    assert all(value.startswith('/') for name, value in front.items() if name.endswith('_topic'))


# Outputs as letters below the moment at which they come; of a set, every topic's message. Taken from the cases that
# message_filters tests its policy with.
TIMELINES = {
    'exact': (10, ['a..b..c', 'a..b..c'], [(0, 0), (3, 3), (6, 6)]),
    'imperfect': (10, ['a.xb..c.', '.a...b.c'], [(0, 1), (6, 5)]),
    'acceleration': (10, ['a...........b....c.', '.......a.......b..c'], [(12, 7), (17, 18)]),
    'queue of 1': (1, ['a...b...c.d..e.', '.a.b...c...d..e'], [(4, 3), (10, 11)]),
    'queue of 2': (2, ['a...b...c.d..e.', '.a.b...c...d..e'], [(0, 1), (4, 3), (8, 7), (10, 11)]),
    'four topics': (
        10,
        ['a....e..i.m..n.', '.b....g..j....o', '..c...h...k....', '...d.f.....l...'],
        [(0, 1, 2, 3), (5, 6, 6, 5), (10, 9, 10, 11)],
    ),
    'early': (10, ['a......e', '.b......', '..c.....', '...d....'], [(0, 1, 2, 3)]),
}


@pytest.mark.parametrize('name', TIMELINES)
def test_approximate_time_pairs_as_message_filters_does(name) -> None:
    queue_size, lines, expected = TIMELINES[name]
    found = []
    sync = ApproximateTime(len(lines), queue_size, lambda *stamps: found.append(stamps))
    for now in range(len(lines[0])):
        for topic in sorted(range(len(lines)), key=lambda topic: (lines[topic][now], topic)):
            if lines[topic][now] != '.':
                sync.add(topic, now, now)
    assert found == expected


def test_approximate_time_drops_the_oldest_of_a_long_queue() -> None:
    found = []
    sync = ApproximateTime(2, 5, lambda *stamps: found.append(stamps))
    for topic, stamp in [*((0, n) for n in range(9)), (1, 3), *((0, n) for n in range(9, 13)), (1, 10), (0, 13)]:
        sync.add(topic, stamp, stamp)
    assert found == [(10, 10)]


def test_exact_time_forgets_what_is_older_than_a_set() -> None:
    found = []
    sync = ExactTime(2, 3, lambda *stamps: found.append(stamps))
    for topic, stamp in [(0, 1), (0, 2), (1, 2), (1, 1), (0, 3), (0, 4), (0, 5), (0, 6), (1, 3), (1, 6)]:
        sync.add(topic, stamp, stamp)
    assert found == [(2, 2), (6, 6)]


class DepthCamera:
    """Looks down at a flat floor: publishes image and cloud with one stamp, one after the other."""

    size_hw = (48, 64)
    # Of two by two pixels each is one tile of 5 cm.
    pixel_m = 0.025

    def __init__(self, client) -> None:
        self._client = client
        self._clouds = client.node.create_publisher(PointCloud2, '/segmentation/points', 10)
        self._reduced_clouds = client.node.create_publisher(PointCloud2, '/segmentation/reduced/points', 10)
        self.reduced_hw: tuple[int, int] | None = None
        self._depths = None
        self._number = 0
        self.stamps: list[int] = []
        self.image = np.zeros((*self.size_hw, 3), np.uint8)
        ys, xs = np.indices(self.size_hw, np.float32)
        self.points = np.stack([xs, ys, np.full(self.size_hw, 40, np.float32)], -1) * np.float32(self.pixel_m)

    def to_global(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn the camera's y and z away, one metre above the floor."""
        return points * [1, 1, -1] + [0.0125, 0.0125, 1], np.array([0.0125, 0.0125, 1])

    def capture(self) -> None:
        now_ns = time.time_ns()
        header = Header(stamp=Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9), frame_id='camera')
        self.stamps.append(now_ns)
        self._client.images.publish(conversions.image_to_msg(self.image, 'rgb8', header))
        if self._depths is not None:
            self._info.header = header
            self._infos.publish(self._info)
            self._depths.publish(conversions.image_to_msg(self.points[..., 2].copy(), '32FC1', header))
            return
        self._clouds.publish(cloud_to_msg(self.points, header))
        if self.reduced_hw is not None:
            self._reduced_clouds.publish(cloud_to_msg(reduce_map(self.points, self.reduced_hw), header))

    def use_depth(self) -> None:
        """Publish depth and calibration instead of clouds, with the very same points."""
        height, width = self.size_hw
        self.points = self.points.copy()
        ys, xs = np.indices(self.size_hw, np.float32)
        self.points[..., 0] = (xs - (width - 1) / 2) / 60
        self.points[..., 1] = (ys - (height - 1) / 2) / 60
        self.points[..., 2] = 1
        self.points[20:24] = np.nan
        self._info = CameraInfo(width=width, height=height, distortion_model='plumb_bob', d=[0.0] * 5)
        self._info.k = [60.0, 0.0, (width - 1) / 2, 0.0, 60.0, (height - 1) / 2, 0.0, 0.0, 1.0]
        self._info.r = np.eye(3).ravel().tolist()
        self._info.p = (np.reshape(self._info.k, (3, 3)) @ np.eye(3, 4)).ravel().tolist()
        self._depths = self._client.node.create_publisher(Image, 'depth', 10)
        self._infos = self._client.node.create_publisher(CameraInfo, 'camera_info', 10)

    def film(self, period_s: float = FRAME_PERIOD_S) -> None:
        """Go on until the test ends."""
        self._client.node.create_timer(period_s, self.capture)


def cloud_to_msg(points: np.ndarray, header: Header) -> PointCloud2:
    height, width = points.shape[:2]
    msg = PointCloud2(header=header, height=height, width=width, point_step=12, row_step=12 * width, is_dense=False)
    msg.fields = [
        PointField(name=name, offset=4 * number, datatype=PointField.FLOAT32, count=1)
        for number, name in enumerate('xyz')
    ]
    msg.data.frombytes(np.ascontiguousarray(points, np.float32).tobytes())
    return msg


@pytest.fixture
def camera(client, stripes) -> DepthCamera:
    """Red, green and blue from left to right, and nothing of these at the top."""
    instance = DepthCamera(client)
    instance.image = stripes(instance.size_hw)
    instance.image[:12] = 0
    return instance


@pytest.fixture
def colour_layer(costmap) -> dict:
    """The shipped parameters for a world of colours: green can be driven on."""
    layer = copy.deepcopy(costmap['semantic_layer'])
    source = layer['front']
    for class_type in source['class_types']:
        source[class_type]['classes'] = []
    source['ground']['classes'] = ['green', 'lime']
    source['furniture']['classes'] = ['blue', 'navy']
    source['hazard']['classes'] = ['red', 'crimson']
    return layer


@pytest.fixture
def make_layer(client, camera, colour_layer) -> Iterator[Callable[..., Nav2Layer]]:
    layers = []

    def make(**parameters) -> Nav2Layer:
        source = {**colour_layer['front'], **parameters.pop('front', {})}
        layers.append(Nav2Layer(client.node, {**colour_layer, **parameters, 'front': source}, camera.to_global))
        return layers[-1]

    yield make
    for layer in layers:
        layer.deactivate()


def stamps_of(layer: Nav2Layer) -> list[int]:
    return [observation.stamp_ns for observation in layer.observations]


def check_pairs(layer: Nav2Layer) -> None:
    assert not layer.refused
    assert layer.observations
    for observation in layer.observations:
        assert observation.stamp_ns == observation.cloud_stamp_ns
        np.testing.assert_array_equal(observation.mask == 0, observation.confidence == 0)
    assert stamps_of(layer) == sorted(set(stamps_of(layer)))


@pytest.mark.parametrize('is_approximate', [True, False])
def test_a_stream_with_changing_words(client, start_node, camera, make_layer, is_approximate) -> None:
    layer = make_layer(use_approximate_time_sync=is_approximate)
    layer.activate()
    # Nav2 and the camera are there first: no mask may overtake the names.
    camera.film()
    start_node(vocabulary='"red; green; blue"')
    client.spin_until(lambda: len(layer.observations) >= 5)
    masks = client.listen('segmentation/mask', Image)
    segments = client.listen('segmentation/segments', SegmentArray)
    client.spin_until(lambda: masks and segments)
    for words in (
        ['crimson', 'lime', 'navy'], ['red', 'green', 'blue'], ['blue', 'red'], ['crimson', 'green', 'blue', 'black'],
        ['red', 'lime'], ['navy', 'crimson', 'lime', 'white'], ['red', 'green', 'blue'],
    ):  # fmt: skip
        answer = client.set_vocabulary(*words)
        assert answer.success, answer.message
        client.spin_until(lambda version=answer.version: segments[-1].vocabulary_version == version)
    last = stamp_ns(segments[-1])
    client.spin_until(lambda: stamps_of(layer)[-1] >= last)

    check_pairs(layer)
    expected = {stamp_ns(msg) for msg in masks if stamp_ns(msg) <= last}
    assert len(expected) >= 7
    assert expected <= set(stamps_of(layer)), 'a mask found no cloud'
    assert set(stamps_of(layer)) <= set(camera.stamps)
    # One name, one id, for ever; the names change with the words and not more often.
    assert len(layer.labels) == 8
    pairs = {(name, class_id) for labels in layer.labels for name, class_id in labels.items()}
    assert len(pairs) == len(dict(pairs)) == len({class_id for _, class_id in pairs})
    labels_of_stamp = {stamp_ns(msg): layer.labels[msg.vocabulary_version - 1] for msg in segments}
    checked = 0
    for observation in layer.observations:
        if observation.stamp_ns in labels_of_stamp:
            known = set(labels_of_stamp[observation.stamp_ns].values())
            assert set(np.unique(observation.mask)) - {0} <= known
            checked += 1
    assert checked >= 7


def test_a_layer_that_comes_late_and_is_restarted(client, start_node, camera, make_layer) -> None:
    start_node(vocabulary='"red; green; blue"')
    camera.film()
    masks = client.listen('segmentation/mask', Image)
    client.spin_until(lambda: len(masks) >= 3)
    assert client.set_vocabulary('lime', 'navy').success
    # By approximate time the first mask may take the next cloud for its own, which came before the layer.
    late = make_layer(use_approximate_time_sync=False)
    late.activate()
    client.spin_until(lambda: len(late.observations) >= 3)
    assert len(late.labels) == 1
    assert late.labels[0].keys() == {'lime', 'navy'}
    late.deactivate()
    count = len(late.observations)
    client.spin_for(5 * FRAME_PERIOD_S)
    assert len(late.observations) == count
    late.activate()
    client.spin_until(lambda: len(late.observations) >= count + 3)
    assert late.labels == [late.labels[0]] * 2
    check_pairs(late)


def test_no_mask_overtakes_the_names(client, start_node, camera, make_layer) -> None:
    """Nav2's layer dies of that. A fast camera and a fast model leave no time between two messages."""
    first = make_layer()
    first.activate()
    camera.film(0.01)
    start_node(vocabulary='"red; green; blue"')
    client.spin_until(lambda: first.observations)
    for _ in range(10):
        layer = make_layer()
        layer.activate()
        client.spin_until(lambda layer=layer: layer.observations)
        layer.deactivate()
        # The node must see it go to see the next one come.
        client.spin_for(0.2)
    assert client.set_vocabulary('lime').success
    client.spin_until(lambda: len(first.labels) == 2)
    check_pairs(first)


def test_reduced_outputs_of_a_frame_belong_together(client, start_node, camera, make_layer) -> None:
    source = {name: f'/segmentation/reduced/{name}' for name in ('mask', 'confidence', 'points')}
    layer = make_layer(
        front={
            'segmentation_topic': source['mask'],
            'confidence_topic': source['confidence'],
            'pointcloud_topic': source['points'],
        }
    )
    layer.activate()
    camera.reduced_hw = (24, 32)
    camera.film()
    start_node(vocabulary='"red; green; blue"', reduced_width='32')
    client.spin_until(lambda: len(layer.observations) >= 5)
    check_pairs(layer)
    full = np.repeat([1, 2, 3], [22, 21, 21]) * (np.arange(48) >= 12)[:, None]
    for observation in layer.observations:
        np.testing.assert_array_equal(observation.mask, full[1::2, 1::2])
    assert {observation.mask.shape for observation in layer.observations} == {(24, 32)}
    costs = tile_costs(layer)
    assert (costs[SEEN, HAZARD] == 254).all()
    assert (costs[SEEN, FLOOR] == 0).all()
    assert (costs[UNLABELLED] == -1).all()


def test_the_nodes_own_cloud_fits_its_masks(client, start_node, camera, make_layer) -> None:
    """Depth in, all three outputs from the node, at full size and reduced."""
    reduced = {
        f'{topic}_topic': f'/segmentation/reduced/{name}'
        for topic, name in (('segmentation', 'mask'), ('confidence', 'confidence'), ('pointcloud', 'points'))
    }
    layers = make_layer(), make_layer(front=reduced)
    for layer in layers:
        layer.activate()
    camera.use_depth()
    camera.film()
    start_node(vocabulary='"red; green; blue"', depth='true', reduced_width='32')
    client.spin_until(lambda: min(len(layer.observations) for layer in layers) >= 5)
    for layer, shape in zip(layers, ((48, 64), (24, 32)), strict=True):
        check_pairs(layer)
        assert {observation.mask.shape for observation in layer.observations} == {shape}
        np.testing.assert_allclose(
            layer.observations[-1].points, reduce_map(camera.points, shape), atol=1e-5, equal_nan=True
        )
    # While all is there: rviz2 finds each topic, with the type of the display.
    for display in rviz_config([''])['Visualization Manager']['Displays']:
        if 'Topic' in display:
            infos = client.node.get_publishers_info_by_topic(f'/{display["Topic"]["Value"]}')
            types = {info.topic_type.split('/')[-1] for info in infos if info.node_name == 'segment'}
            assert types == {display['Class'].split('/')[-1]}


LABEL_LISTENER = """
import rclpy
from vision_msgs.msg import LabelInfo
from rclpy.qos import DurabilityPolicy, QoSProfile
rclpy.init()
node = rclpy.create_node('listener')
qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(LabelInfo, 'segmentation/label_info', lambda _: print('labels', flush=True), qos)
rclpy.spin(node)
"""


def test_a_listener_that_hangs_does_not_stop_the_masks(client, start_node, camera, make_layer, tmp_path) -> None:
    start_node(vocabulary='"red; green; blue"')
    layer = make_layer()
    layer.activate()
    camera.film()
    script = tmp_path / 'listener.py'
    script.write_text(LABEL_LISTENER)
    listener = start_node(executable=script)
    listener.wait_for_log('labels')
    listener.process.send_signal(signal.SIGSTOP)
    try:
        assert client.set_vocabulary('lime', 'navy').success
        client.spin_until(lambda: len(layer.labels) == 2)
        count = len(layer.observations)
        client.spin_until(lambda: len(layer.observations) >= count + 20, 10.0)
    finally:
        listener.process.send_signal(signal.SIGKILL)
    check_pairs(layer)


def tile_costs(layer: Nav2Layer) -> np.ndarray:
    """Return the costs of the floor below the camera, -1 where none was written."""
    layer.update_costs(time.time())
    height, width = DepthCamera.size_hw
    costs = np.full((height // 2, width // 2), -1)
    for (x, y), cost in layer.costs.items():
        costs[y, x] = cost
    return costs


@pytest.fixture
def capture(client, camera) -> Callable[..., None]:
    """Captures one image after the other until each layer has got so many more."""

    def run(*layers: Nav2Layer, more: int = 1) -> None:
        goals = [len(layer.observations) + more for layer in layers]

        def missing() -> int:
            return max(goal - len(layer.observations) for goal, layer in zip(goals, layers, strict=True))

        while (before := missing()) > 0:
            camera.capture()
            end_s = time.monotonic() + 1.0
            client.spin_until(lambda before=before, end_s=end_s: missing() < before or time.monotonic() > end_s)

    return run


def test_costs_of_a_known_floor(client, start_node, camera, make_layer, capture) -> None:
    camera.points[40:44, 10:50, 2] = np.nan
    careful, confident = make_layer(), make_layer(front={'use_cost_selection': False})
    careful.activate(), confident.activate()
    start_node(vocabulary='"red; green; blue"')
    capture(careful, confident)
    once, times = tile_costs(careful), len(careful.observations)
    capture(careful, confident, more=3)
    often = tile_costs(careful)
    check_pairs(careful), check_pairs(confident)

    assert (once[SEEN, FLOOR] == 0).all()
    # What is seen once is not yet lethal.
    assert (once[SEEN, HAZARD] == (200 if times < 2 else 254)).all()
    assert (once[SEEN, FURNITURE] == (100 if times < 3 else 254)).all()
    for costs in (often, tile_costs(confident)):
        assert (costs[SEEN, FLOOR] == 0).all()
        assert (costs[SEEN, HAZARD] == 254).all()
        assert (costs[SEEN, FURNITURE] == 254).all()
        assert (costs[UNLABELLED] == -1).all(), 'pixels without a label were used'
        assert (costs[20:22, 5:25] == -1).all(), 'points that are not numbers were used'
    assert (often[SEEN, SHARED] == 254).all(), 'the dearer class of a tile does not count'


def test_a_word_that_goes_takes_its_costs_along(client, start_node, make_layer, capture) -> None:
    layer = make_layer(front={'tile_map_decay_time': 0.5})
    layer.activate()
    start_node(vocabulary='"red; green; blue"')
    capture(layer, more=4)
    assert set(np.unique(tile_costs(layer)[SEEN])) == {0, 254}
    assert client.set_vocabulary('green', 'navy').success
    client.spin_until(lambda: len(layer.labels) == 2)
    client.spin_for(0.6)
    layer.costs.clear()
    capture(layer, more=4)
    costs = tile_costs(layer)
    assert (costs[SEEN, HAZARD] == -1).all()
    assert (costs[SEEN, FLOOR] == 0).all()
    assert (costs[SEEN, FURNITURE] == 254).all()


class RoomCamera(DepthCamera):
    """Stands in a simulated room."""

    size_hw = (240, 320)

    def __init__(self, client, seed: int) -> None:
        super().__init__(client)
        height, width = self.size_hw
        rng = np.random.default_rng(seed)
        room = make_room(seed)
        renderer = SceneRenderer(build_scene(room, (width, height)), (width, height))
        self._position, yaw, pitch = view_pose(rng, room, free_positions(room))
        renderer.look(self._position, yaw, pitch)
        self.image, depth, self.truth = renderer.color(), renderer.depth(), renderer.instances()
        self.segments = renderer.segments(self.truth)
        renderer.close()
        focal = height / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
        ys, xs = np.indices(self.size_hw)
        rays = [(xs - (width - 1) / 2) / focal, (ys - (height - 1) / 2) / focal, np.ones(self.size_hw)]
        self.points = (np.stack(rays, -1) * depth[..., None]).astype(np.float32)
        forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        self._axes = np.stack([right, np.cross(forward, right), forward])

    def to_global(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return points @ self._axes + self._position, self._position

    def true_costs(self, front: dict) -> dict[tuple[int, int], int]:
        """Return the highest max_cost among the true classes of each tile in range."""
        cost_of_name = {
            name: front[class_type]['max_cost'] for class_type in front['class_types']
            for name in front[class_type]['classes']
        }  # fmt: skip
        points, origin = self.to_global(self.points.reshape(-1, 3))
        distances = np.linalg.norm(points - origin, axis=1)
        costs = {}
        for segment in self.segments:
            inside = (self.truth.ravel() == segment.id) & (distances < 5.0) & (distances > 0.3)
            for index in np.unique(np.floor(points[inside, :2] / 0.05).astype(int), axis=0):
                costs[tuple(index)] = max(costs.get(tuple(index), 0), cost_of_name[segment.class_name])
        return costs


def test_a_room_with_the_shipped_model_and_parameters(client, start_node, costmap) -> None:
    node = start_node(executable=SEGMENT_NODE, device='cpu')
    found, true = [], []
    for seed in range(3):
        camera = RoomCamera(client, seed)
        layer = Nav2Layer(client.node, costmap['semantic_layer'], camera.to_global)
        layer.activate()
        node.wait_for_log('active', 120.0)
        while len(layer.observations) < 3:
            camera.capture()
            client.spin_for(0.1)
        layer.deactivate()
        check_pairs(layer)
        assert len(layer.labels) == 1
        layer.update_costs(time.time())
        costs = camera.true_costs(costmap['semantic_layer']['front'])
        found += [layer.costs.get(index, -1) for index in costs]
        true += costs.values()
    is_free, is_lethal = np.array(found) == 0, np.array(found) == 254
    should_be_free = np.array(true) == 0
    assert is_free[should_be_free].mean() > 0.8
    assert is_lethal[~should_be_free].mean() > 0.5

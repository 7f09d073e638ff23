"""What `ros-navigation/semantic_segmentation_layer` does with messages, for want of Nav2 where tests run.

Parameters, quality of service, pairing, gates, choice of pixels and costs follow its branches main and jazzy. What
would end its process, or what it would misread without a word, is an AssertionError here.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image, PointCloud2, PointField
from time_sync import ApproximateTime, ExactTime, TimeSync
from vision_msgs.msg import LabelInfo

# Names and defaults of all parameters that the layer declares: of its own, per observation source and per class type.
LAYER_PARAMETERS = {
    'plugin': '',  # declared by the costmap
    'enabled': True,
    'combination_method': 1,
    'observation_sources': '',
    'publish_debug_topics': False,
    'use_approximate_time_sync': True,
    'sensor_data_depth': 10,
}
SOURCE_PARAMETERS = {
    'segmentation_topic': '',
    'confidence_topic': '',
    'labels_topic': '',
    'pointcloud_topic': '',
    'observation_persistence': 0.0,
    'expected_update_rate': 0.0,
    'class_types': [],
    'max_obstacle_distance': 5.0,
    'min_obstacle_distance': 0.3,
    'tile_map_decay_time': 5.0,
    'visualize_tile_map': False,
    'use_cost_selection': True,
}
CLASS_PARAMETERS = {
    'classes': [],
    'base_cost': 0,
    'max_cost': 0,
    'mark_confidence': 0,
    'samples_to_max_cost': 0,
    'dominant_priority': False,
}
MAX_INTERVAL_NS = 100_000_000
STALL_S = 0.1
LABELS_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

TileIndex = tuple[int, int]
# Maps points (n, 3) of the camera to the frame of the costmap, and tells where the camera is there.
ToGlobal = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Cost:
    """The parameters of a class type without its names; the layer keeps the first three in a byte."""

    base_cost: int = 0
    max_cost: int = 0
    mark_confidence: int = 0
    samples_to_max_cost: int = 0
    dominant_priority: bool = False

    def __post_init__(self) -> None:
        assert all(0 <= value <= 255 for value in (self.base_cost, self.max_cost, self.mark_confidence))


class Tile:
    """What was observed on one tile: a queue of (confidence, time) per class, and the class that rules."""

    def __init__(self) -> None:
        self.class_id: int | None = None
        self.size = 0
        self._queues: dict[int, deque[tuple[float, float]]] = defaultdict(deque)

    @property
    def mean_confidence(self) -> float:
        return float(np.mean([confidence for confidence, _ in self._queues[self.class_id]]))

    def push(self, class_id: int, confidence: float, time_s: float, has_priority: bool) -> None:
        queue = self._queues[class_id]
        queue.append((confidence, time_s))
        if has_priority or len(queue) > self.size:
            if self.class_id not in (None, class_id):
                self._queues = defaultdict(deque, {class_id: queue})
            self.class_id, self.size = class_id, len(queue)

    def purge(self, now_s: float, decay_s: float) -> None:
        for class_id, queue in list(self._queues.items()):
            while queue and now_s - queue[0][1] > decay_s:
                queue.popleft()
            if not queue:
                del self._queues[class_id]
        if self.class_id in self._queues:
            self.size = len(self._queues[self.class_id])
        else:
            sizes = {class_id: len(queue) for class_id, queue in self._queues.items()}
            self.class_id = max(sizes, key=sizes.__getitem__, default=None)
            self.size = sizes.get(self.class_id, 0)


@dataclass(frozen=True)
class Observation:
    """Mask, confidence and cloud that belong together, as arrays `(H, W)` uint8 and `(H, W, 3)` float32."""

    stamp_ns: int
    cloud_stamp_ns: int
    mask: np.ndarray
    confidence: np.ndarray
    points: np.ndarray


class Nav2Layer:
    """One layer with one observation source.

    Attributes:
        labels: All label messages so far, as name to id.
        observations: All that was put together and used.
        refused: Why others were not used.
        costs: Cost of each tile that was ever written; like the layer it keeps the cost of a tile that nobody sees.
    """

    def __init__(self, node: Node, parameters: dict[str, Any], to_global: ToGlobal, resolution_m: float = 0.05) -> None:
        layer = LAYER_PARAMETERS | parameters
        (source_name,) = layer['observation_sources'].split()
        self._source = SOURCE_PARAMETERS | layer[source_name]
        assert self._source['class_types'], 'the layer would end the process'
        self._cost_of_name: dict[str, Cost] = {}
        for class_type in self._source['class_types']:
            values = CLASS_PARAMETERS | self._source.get(class_type, {})
            names = values.pop('classes')
            for name in names:
                self._cost_of_name.setdefault(name, Cost(**values))
        assert self._cost_of_name, 'the layer would end the process'
        self._node = node
        self._to_global = to_global
        self._resolution_m = resolution_m
        self._depth = layer['sensor_data_depth']
        self._is_approximate = layer['use_approximate_time_sync']
        self._cost_of_id: dict[int, Cost] | None = None
        self._lag_s = 0.0
        self._tiles: dict[TileIndex, Tile] = {}
        self._subscriptions: list[Subscription] = []
        self.labels: list[dict[str, int]] = []
        self.observations: list[Observation] = []
        self.refused: list[str] = []
        self.costs: dict[TileIndex, int] = {}

    def activate(self) -> None:
        """Subscribe in the order of the layer; the queues start empty."""
        source = self._source
        sync: TimeSync = (
            ApproximateTime(3, self._depth, self._receive, MAX_INTERVAL_NS)
            if self._is_approximate
            else ExactTime(3, self._depth, self._receive)
        )
        qos = QoSProfile(depth=self._depth, reliability=ReliabilityPolicy.BEST_EFFORT)

        def forward(topic: int, msg: Any, info: dict[str, Any]) -> None:
            self._lag_s = time.time() - info['received_timestamp'] * 1e-9
            sync.add(topic, stamp_ns(msg), msg)

        def forward_mask(msg: Image, info: dict[str, Any]) -> None:
            forward(0, msg, info)

        def forward_confidence(msg: Image, info: dict[str, Any]) -> None:
            forward(1, msg, info)

        def forward_cloud(msg: PointCloud2, info: dict[str, Any]) -> None:
            forward(2, msg, info)

        for msg_type, name, callback, profile in (
            (Image, 'segmentation_topic', forward_mask, qos),
            (Image, 'confidence_topic', forward_confidence, qos),
            (LabelInfo, 'labels_topic', self._receive_labels, LABELS_QOS),
            (PointCloud2, 'pointcloud_topic', forward_cloud, qos),
        ):
            self._subscriptions.append(self._node.create_subscription(msg_type, source[name], callback, profile))

    def deactivate(self) -> None:
        """End the subscriptions; labels and tiles stay."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def update_costs(self, now_s: float) -> None:
        """Forget what is too old and write the costs of all tiles."""
        self._purge(now_s)
        for index, tile in self._tiles.items():
            cost = self._cost_of_id.get(tile.class_id, Cost())
            is_sure = tile.size >= cost.samples_to_max_cost and tile.mean_confidence > cost.mark_confidence
            self.costs[index] = cost.max_cost if is_sure else cost.base_cost

    def _receive_labels(self, msg: LabelInfo) -> None:
        ids = {entry.class_name: entry.class_id for entry in msg.class_map}
        assert len(ids) == len(msg.class_map), 'of two equal names the layer takes any'
        assert all(0 < class_id <= 255 for class_id in ids.values()), 'the layer cuts ids to 8 bits'
        assert len(set(ids.values())) == len(ids), 'of two names with one id the layer takes any'
        self.labels.append(ids)
        self._cost_of_id = {ids[name]: cost for name, cost in self._cost_of_name.items() if name in ids}

    def _receive(self, mask: Image, confidence: Image, cloud: PointCloud2) -> None:
        num_pixels = mask.width * mask.height
        if num_pixels != cloud.width * cloud.height:
            self.refused.append(f'mask {mask.width}x{mask.height}, cloud {cloud.width}x{cloud.height}')
            return
        if len(mask.data) < num_pixels:
            self.refused.append(f'mask of {len(mask.data)} bytes instead of {num_pixels}')
            return
        if self._cost_of_id is None:
            # A process that stands still finds both waiting and reads the mask first, whoever sent it when.
            assert self._lag_s > STALL_S, 'a frame before the first labels: the layer follows a null pointer'
            return
        if not self._cost_of_id:
            self.refused.append('no class of the labels has a cost')
            return
        # From here on the layer checks nothing.
        assert (mask.width, mask.height) == (cloud.width, cloud.height)
        assert len(confidence.data) >= num_pixels, 'the layer reads past the end'
        assert {mask.encoding, confidence.encoding} == {'mono8'}, 'the layer reads one byte per pixel'
        assert mask.step == confidence.step == mask.width, 'the layer reads at v * width + u'
        shape = (mask.height, mask.width)
        observation = Observation(
            stamp_ns(mask),
            stamp_ns(cloud),
            np.frombuffer(mask.data, np.uint8, num_pixels).reshape(shape),
            np.frombuffer(confidence.data, np.uint8, num_pixels).reshape(shape),
            cloud_points(cloud),
        )
        self.observations.append(observation)
        self._buffer(observation)

    def _buffer(self, observation: Observation) -> None:
        points = observation.points.reshape(-1, 3)
        pixels = np.flatnonzero(np.isfinite(points[:, 2]))
        points, origin = self._to_global(points[pixels])
        distances = np.linalg.norm(points - origin, axis=1)
        near, far = self._source['min_obstacle_distance'], self._source['max_obstacle_distance']
        in_range = (distances > near) & (distances < far)
        pixels = pixels[in_range]
        indices = np.floor(points[in_range, :2] / self._resolution_m).astype(int)
        mask, confidence = observation.mask.ravel(), observation.confidence.ravel()
        max_costs = np.array([self._cost_of_id.get(class_id, Cost()).max_cost for class_id in range(256)])
        rank = max_costs[mask[pixels]] if self._source['use_cost_selection'] else confidence[pixels]
        # A pixel takes a tile from an earlier one only if its rank is higher.
        order = np.lexsort((pixels, -rank.astype(int)))
        time_s = observation.cloud_stamp_ns * 1e-9
        self._purge(time_s)
        tiles, firsts = np.unique(indices[order], axis=0, return_index=True)
        for (x, y), pixel in zip(tiles.tolist(), pixels[order][firsts].tolist(), strict=True):
            cost = self._cost_of_id.get(int(mask[pixel]))
            if cost is not None:
                tile = self._tiles.setdefault((x, y), Tile())
                tile.push(int(mask[pixel]), float(confidence[pixel]), time_s, cost.dominant_priority)

    def _purge(self, now_s: float) -> None:
        for index, tile in list(self._tiles.items()):
            tile.purge(now_s, self._source['tile_map_decay_time'])
            if tile.class_id is None:
                del self._tiles[index]


def stamp_ns(msg: Any) -> int:
    """Return the time of a message."""
    return msg.header.stamp.sec * 1_000_000_000 + msg.header.stamp.nanosec


def cloud_points(msg: PointCloud2) -> np.ndarray:
    """Return `(H, W, 3)` float32 coordinates; the layer looks for float32 fields x, y and z."""
    offsets = {field.name: field.offset for field in msg.fields if field.datatype == PointField.FLOAT32}
    names = ['x', 'y', 'z']
    dtype = np.dtype(
        {
            'names': names,
            'formats': ['<f4'] * 3,
            'offsets': [offsets[name] for name in names],
            'itemsize': msg.point_step,
        }
    )
    points = np.frombuffer(msg.data, dtype, msg.width * msg.height)
    return np.stack([points[name] for name in names], axis=-1).reshape(msg.height, msg.width, 3)

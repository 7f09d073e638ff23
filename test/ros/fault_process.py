"""A process to be killed: `camera` publishes stripes, `listener` takes masks; both say once when they work."""

import sys
import time

from builtin_interfaces.msg import Time
import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fisa_ros.node import conversions


def film(node: Node, is_big: bool) -> None:
    images = node.create_publisher(Image, 'image', 5)
    size = (480, 640) if is_big else (48, 64)
    columns = np.arange(size[1]) * 3 // size[1]
    pixels = np.ascontiguousarray(np.broadcast_to(np.eye(3, dtype=np.uint8)[columns] * np.uint8(255), (*size, 3)))
    while True:
        now_ns = time.time_ns()
        stamp = Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
        images.publish(conversions.image_to_msg(pixels, 'rgb8', Header(stamp=stamp, frame_id='other')))
        if images.get_subscription_count():
            print('works', flush=True)
        time.sleep(0.02)


def listen(node: Node) -> None:
    node.create_subscription(Image, 'segmentation/mask', lambda _: print('works', flush=True), 5)
    rclpy.spin(node)


if __name__ == '__main__':
    rclpy.init()
    node = rclpy.create_node(sys.argv[1])
    if sys.argv[1] == 'listener':
        listen(node)
    film(node, is_big='big' in sys.argv)

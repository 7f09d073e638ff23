import cv2
import numpy as np
import pytest

from fisa_ros.pipeline.image_motion import ImageMotion


@pytest.fixture(scope='module')
def scene():
    """Picture larger than the images that are cut from it."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    return cv2.resize(noise, (900, 600), interpolation=cv2.INTER_CUBIC)


def scaled(image, scale):
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(('x', 'y'), [(0, 0), (40, 0), (-24, 12), (4, -36), (1, 2)])
@pytest.mark.parametrize('scale', [1.0, 0.3])
def test_a_turn_of_the_camera(scene, x, y, scale):
    motion = ImageMotion()
    first, second = scene[60:540, 60:700], scene[60 - y : 540 - y, 60 - x : 700 - x]
    assert motion.step(scaled(first, scale)) == (0, 0)
    moved = motion.step(scaled(second, scale))
    assert np.multiply(moved, (640, 480)) == pytest.approx((x, y), abs=2.5)


def test_a_cut_to_another_scene_is_no_motion(scene):
    motion = ImageMotion()
    motion.step(scene[:480, :640])
    assert motion.step(np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)) == (0, 0)


@pytest.mark.parametrize('value', [0, 255])
def test_nothing_to_see(value):
    motion = ImageMotion()
    image = np.full((48, 64, 3), value, np.uint8)
    assert [motion.step(image) for _ in range(3)] == [pytest.approx((0, 0), abs=1e-3)] * 3


def test_reset(scene):
    motion = ImageMotion()
    motion.step(scene[:480, :640])
    motion.reset()
    assert motion.step(scene[40:520, 40:680]) == (0, 0)


@pytest.mark.parametrize('size_hw', [(1, 1), (3, 500), (2000, 7)])
def test_any_size(size_hw):
    motion = ImageMotion()
    image = np.random.default_rng(2).integers(0, 256, (*size_hw, 3), np.uint8)
    motion.step(image)
    assert motion.step(image) == pytest.approx((0, 0), abs=1e-3)

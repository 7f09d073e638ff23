import cv2
import numpy as np
from PIL import Image, ImageSequence

from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass, VocabularyRequest
from fisa_ros.node.segment_client import VocabularyAnswer
from fisa_ros.tools.demo_phases import Phase
from fisa_ros.tools.demo_pictures import MAX_ANIMATION_BYTES, write_animation, write_pictures
from fisa_ros.tools.demo_record import PhaseRecord, Picture

STEP_NS = 100_000_000


def make_phase(version):
    classes = tuple(VocabularyClass(number + 1, (f'name {number}',), True) for number in range(40))
    return PhaseRecord(
        phase=Phase(f'phase {version}', VocabularyRequest(('name',))),
        answer=VocabularyAnswer(True, '', version, (), 0.0, 0, 0),
        vocabulary=Vocabulary(version, classes),
        first_answer_ns=version,
    )


def flat_picture(number, version, value):
    return Picture(number * STEP_NS, version, np.full((60, 80, 3), value, np.uint8))


def test_pictures_are_the_last_before_and_the_first_after_a_change(tmp_path):
    versions = [1, 1, 2, 2, None, 3]
    pictures = [flat_picture(number, version, 40 * number) for number, version in enumerate(versions)]
    paths = write_pictures(pictures, [make_phase(version) for version in (1, 2, 3)], tmp_path)
    values = {path.name: int(cv2.imread(str(path)).mean()) for path in paths}
    assert values == {
        'change_1_before.png': 40,
        'change_1_after.png': 80,
        'change_2_before.png': 120,
        'change_2_after.png': 200,
    }


def test_animation_shows_every_picture_of_a_known_version_in_its_time(tmp_path):
    path = tmp_path / 'demo.gif'
    pictures = [flat_picture(number, version, 30 * number) for number, version in enumerate([1, 1, None, 2, 2])]
    assert write_animation(pictures, [make_phase(1), make_phase(2)], path)
    with Image.open(path) as animation:
        frames = [(frame.info['duration'], frame.convert('RGB')) for frame in ImageSequence.Iterator(animation)]
    assert [duration for duration, _ in frames] == [100, 200, 100, 400]
    for (_, frame), value in zip(frames, (0, 30, 90, 120), strict=True):
        np.testing.assert_allclose(np.asarray(frame)[100, 100], value, atol=4)


def test_animation_is_never_too_large(tmp_path):
    path = tmp_path / 'demo.gif'
    generator = np.random.default_rng(0)
    pictures = [
        Picture(number * STEP_NS, 1, generator.integers(0, 256, (300, 400, 3), np.uint8)) for number in range(40)
    ]
    assert write_animation(pictures, [make_phase(1)], path)
    assert path.stat().st_size <= MAX_ANIMATION_BYTES
    with Image.open(path) as animation:
        assert animation.n_frames > 5


def test_no_picture_no_animation(tmp_path):
    path = tmp_path / 'demo.gif'
    assert not write_animation([flat_picture(0, 7, 0)], [make_phase(1)], path)
    assert not path.exists()

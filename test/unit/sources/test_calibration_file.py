import pytest
import yaml

from fisa_ros.core.errors import SourceError
from fisa_ros.sources.calibration_file import read_calibration

WRITTEN = {
    'image_width': 640,
    'image_height': 480,
    'camera_name': 'narrow_stereo',
    'camera_matrix': {'rows': 3, 'cols': 3, 'data': [438.7, 0, 305.5, 0, 437.3, 243.7, 0, 0, 1]},
    'distortion_model': 'rational_polynomial',
    'distortion_coefficients': {'rows': 1, 'cols': 8, 'data': [0.1, 0.2, 0, 0, 0.3, 0.4, 0.5, 0.6]},
    'rectification_matrix': {'rows': 3, 'cols': 3, 'data': [1, 0, 0, 0, 1, 0, 0, 0, 1]},
    'projection_matrix': {'rows': 3, 'cols': 4, 'data': [393.6, 0, 322.8, 0, 0, 393.6, 241.0, 0, 0, 0, 1, 0]},
}


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / 'camera.yaml'
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write_file


def test_what_camera_calibration_writes(write):
    calibration = read_calibration(write(WRITTEN))
    assert calibration.size_wh == (640, 480)
    assert calibration.distortion_model == 'rational_polynomial'
    assert len(calibration.d) == 8
    assert (calibration.k[0], calibration.r[4], calibration.p[6]) == (438.7, 1.0, 241.0)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'image_width': None}, 'image_width must be a number of pixels, got None'),
        ({'image_height': 0}, 'image_height must be a number of pixels, got 0'),
        ({'camera_matrix': {'data': [1, 2]}}, r'camera_matrix must have data of 9 numbers, got \[1, 2\]'),
        ({'projection_matrix': 5}, 'projection_matrix must have data of 12 numbers, got None'),
        ({'distortion_coefficients': {'data': ['a']}}, 'distortion_coefficients must have data of numbers'),
        ({'camera_matrix': {'data': [float('nan')] * 9}}, 'camera_matrix must have data of 9 numbers'),
    ],
)
def test_a_value_that_is_missing_or_wrong_is_named(write, change, reason):
    with pytest.raises(SourceError, match=reason):
        read_calibration(write(WRITTEN | change))


def test_files_that_are_no_calibration(write, tmp_path):
    with pytest.raises(SourceError, match='cannot be read'):
        read_calibration(tmp_path / 'none.yaml')
    with pytest.raises(SourceError, match='cannot be read'):
        read_calibration(write('{'))
    with pytest.raises(SourceError, match='holds no calibration'):
        read_calibration(write('- 1'))

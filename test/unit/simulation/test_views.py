from itertools import pairwise
import json

import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.simulation.categories import CATEGORIES
from fisa_ros.simulation.views import FIRST_SEED, ViewSet, write_views


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('views')
    write_views(folder, 'validation', 6, 64, processes=1)
    return folder


def test_views_hold_images_and_their_instances(folder):
    views = ViewSet.open(folder)
    assert views.images.shape == (6, 64, 64, 3)
    assert views.instance_maps.shape == (6, 64, 64)
    for instance_map, categories in zip(views.instance_maps, views.categories, strict=True):
        assert set(np.unique(instance_map)) - {0} == set(range(1, len(categories) + 1))
        assert all(1 <= category <= len(CATEGORIES) for category in categories)
    assert len(np.unique(views.images.reshape(6, -1), axis=0)) == 6


def test_a_complete_set_is_not_rendered_again(folder):
    stamp = (folder / 'images.npy').stat().st_mtime_ns
    write_views(folder, 'validation', 6, 64, processes=1)
    assert (folder / 'images.npy').stat().st_mtime_ns == stamp


def test_splits_share_no_room():
    ranges = sorted(FIRST_SEED.values())
    assert all(later - earlier >= 1_000_000 for earlier, later in pairwise(ranges))


@pytest.mark.parametrize('harm', ['missing', 'unfinished', 'shorter', 'garbage'])
def test_incomplete_sets_are_refused(folder, tmp_path, harm):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if harm == 'missing':
        (tmp_path / 'images.npy').unlink()
    elif harm == 'unfinished':
        (tmp_path / 'categories.json').unlink()
    elif harm == 'shorter':
        (tmp_path / 'categories.json').write_text(json.dumps([[1]]))
    else:
        (tmp_path / 'instances.npy').write_bytes(b'garbage')
    with pytest.raises(DataError, match=str(tmp_path)):
        ViewSet.open(tmp_path)

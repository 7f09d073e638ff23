"""Data sets of independent views of simulated rooms, stored as arrays that are read by memory mapping."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
import json
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fisa_ros.core.errors import DataError
from fisa_ros.simulation.camera import SceneRenderer, free_positions, view_pose
from fisa_ros.simulation.room import make_room
from fisa_ros.simulation.scene import build_scene

# Rooms are told apart by their seed alone: no room of one split occurs in another, nor in a SceneCamera with a
# seed below the first.
FIRST_SEED = {'train': 1_000_000, 'validation': 2_000_000, 'test': 3_000_000}
VIEWS_PER_ROOM = 4
_CAMERA_SIZE_WH = (640, 480)
_MIN_INSTANCES = 4


@dataclass(frozen=True)
class ViewSet:
    """Views of one split.

    Attributes:
        images: `(n, S, S, 3)` uint8 rgb, stretched to the square.
        instance_maps: `(n, S, S)` uint8, 1-based position in `categories`, 0 where nothing counts.
        categories: Per view the category ids of its instances.
    """

    images: NDArray[np.uint8]
    instance_maps: NDArray[np.uint8]
    categories: list[list[int]]

    def __len__(self) -> int:
        return len(self.categories)

    @classmethod
    def open(cls, folder: Path) -> 'ViewSet':
        """Open what `write_views` wrote.

        Raises:
            DataError: Something is missing or does not fit together.
        """
        try:
            categories = json.loads((folder / 'categories.json').read_text())
            images = np.load(folder / 'images.npy', mmap_mode='r')
            instance_maps = np.load(folder / 'instances.npy', mmap_mode='r')
        except (OSError, ValueError) as error:
            raise DataError(f'{folder} holds no complete set of views: {error}') from error
        if not len(images) == len(instance_maps) == len(categories):
            raise DataError(
                f'{folder}: {len(images)} images, {len(instance_maps)} instance maps, {len(categories)} category lists'
            )
        return cls(images, instance_maps, categories)


View = tuple[NDArray[np.uint8], NDArray[np.uint8], list[int]]


def _views_of_room(seed: int, size: int) -> list[View]:
    room = make_room(seed)
    rng = np.random.default_rng([seed, 2])
    # Every fourth room is lit with shadows, so that they mean nothing; they cost three times the time.
    scene = build_scene(room, _CAMERA_SIZE_WH, shadows=rng.random() < 0.25)
    positions = free_positions(room)
    color = SceneRenderer(scene, _CAMERA_SIZE_WH)
    truth = SceneRenderer(scene, (size, size))
    views: list[View] = []
    while len(views) < VIEWS_PER_ROOM:
        pose = view_pose(rng, room, positions)
        truth.look(*pose)
        instance_map = truth.instances()
        present = np.flatnonzero(np.bincount(instance_map.ravel()))
        present = present[present > 0]
        if len(present) < _MIN_INSTANCES and rng.random() < 0.8:
            continue
        color.look(*pose)
        image = np.asarray(cv2.resize(color.color(), (size, size), interpolation=cv2.INTER_AREA), np.uint8)
        table = np.zeros(len(scene.categories) + 1, np.uint8)
        table[present] = np.arange(1, len(present) + 1)
        views.append((image, table[instance_map], [scene.categories[index - 1].id for index in present]))
    color.close()
    truth.close()
    return views


def _rooms(seeds: range, size: int, processes: int) -> Iterator[list[View]]:
    # MuJoCo's off-screen contexts do not survive a fork.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, context) as pool:
        yield from pool.map(_views_of_room, seeds, [size] * len(seeds), chunksize=4)


def write_views(folder: Path, split: str, count: int, size: int, *, processes: int | None = None) -> ViewSet:
    """Render `count` views of size x size pixels into `folder`, unless it already holds that many.

    Args:
        folder: Where `images.npy`, `instances.npy` and `categories.json` go; the last is written at the end.
        split: A key of `FIRST_SEED`.
        count: Number of views.
        size: Edge of the square images in pixels.
        processes: Rendering processes, by default one per core.
    """
    try:
        existing = ViewSet.open(folder)
        if len(existing) == count and existing.images.shape[1] == size:
            return existing
    except DataError:
        pass
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'categories.json').unlink(missing_ok=True)
    images = np.lib.format.open_memmap(folder / 'images.npy', 'w+', np.uint8, (count, size, size, 3))
    instance_maps = np.lib.format.open_memmap(folder / 'instances.npy', 'w+', np.uint8, (count, size, size))
    categories: list[list[int]] = []
    first = FIRST_SEED[split]
    seeds = range(first, first + -(-count // VIEWS_PER_ROOM))
    with tqdm(total=count, unit='view', desc=f'render {split}') as progress:
        for views in _rooms(seeds, size, processes or os.cpu_count() or 1):
            for image, instance_map, ids in views[: count - len(categories)]:
                images[len(categories)], instance_maps[len(categories)] = image, instance_map
                categories.append(ids)
                progress.update()
    images.flush()
    instance_maps.flush()
    (folder / 'categories.json').write_text(json.dumps(categories))
    return ViewSet.open(folder)

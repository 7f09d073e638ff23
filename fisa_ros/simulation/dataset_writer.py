"""Writes data sets of simulated rooms in the COCO panoptic and captions formats, and goes on where a run was stopped.

Images of a moving camera have `video_id` and `frame_id` (0-based), and the document lists `videos`, as in COCO-VID.
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
import json
import multiprocessing
import os
from pathlib import Path
import signal
import sys
import threading
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fisa_ros.core.errors import DataError
from fisa_ros.core.resources import share_dir
from fisa_ros.datasets.coco_panoptic import encode_ids
from fisa_ros.simulation.captions import image_caption, object_caption, shipped_words
from fisa_ros.simulation.categories import CATEGORIES, SITE_CATEGORIES
from fisa_ros.simulation.frames import Frame, sequence_frames, view_frames
from fisa_ros.simulation.render_journal import RenderJournal
from fisa_ros.simulation.room import ALL_STYLES, SITES
from fisa_ros.simulation.splits import FIRST_SEED, SPLITS, split_of

MIN_SIZE, MAX_SIZE = 16, 4096
_CAPTIONS_PER_IMAGE = 2
_CAPTION_STREAM = 6
_JPEG_QUALITY = 95
# Larger levels make the files a little smaller and take several times as long.
_PNG_LEVEL = 1
_IMAGES_PER_TASK = 32
_UNFINISHED = '.unfinished'

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """What the images of a set depend on.

    Attributes:
        split: One of `SPLITS`.
        size_wh: Image size (width, height) in pixels, each in [16, 4096].
        images_per_room: Views of a room, or frames of a sequence, which stays in one room; 1 or more.
        rate_hz: Frames per second of sequences of a moving camera; None for independent views.
        shadow_share: Share of the rooms that are lit with shadows, in [0, 1].
        with_depth: Whether depth images are written.
        style: Of all rooms, one of `ALL_STYLES`; None draws one for each that is not in `SITES`.

    Raises:
        DataError: A value is out of its range.
    """

    split: str
    size_wh: tuple[int, int] = (640, 480)
    images_per_room: int = 4
    rate_hz: float | None = None
    shadow_share: float = 0.25
    with_depth: bool = False
    style: str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DataError(f'split must be one of {", ".join(SPLITS)}, got {self.split!r}')
        if not all(MIN_SIZE <= edge <= MAX_SIZE for edge in self.size_wh):
            width, height = self.size_wh
            raise DataError(f'width and height must be in [{MIN_SIZE}, {MAX_SIZE}], got {width}x{height}')
        if self.images_per_room < 1:
            raise DataError(f'images per room must be 1 or more, got {self.images_per_room}')
        if self.rate_hz is not None and not 0.1 <= self.rate_hz <= 1000:
            raise DataError(f'rate must be in [0.1, 1000] Hz, got {self.rate_hz}')
        if not 0 <= self.shadow_share <= 1:
            raise DataError(f'share of shadows must be in [0, 1], got {self.shadow_share}')
        if self.style is not None and self.style not in ALL_STYLES:
            raise DataError(f'style must be one of {", ".join(ALL_STYLES)}, got {self.style!r}')

    def file_stem(self, index: int) -> str:
        """Return the file name, without ending, of the image with 0-based number `index` in the set."""
        room, number = divmod(index, self.images_per_room)
        return f'{index:08d}' if self.rate_hz is None else f'seq_{room + 1:04d}_{number:06d}'

    def frames(self, room: int, numbers: Sequence[int]) -> Iterator[Frame]:
        """Render images `numbers` of the room with 0-based number `room`."""
        seed = FIRST_SEED[self.split] + room
        light, depth, style = self.shadow_share, self.with_depth, self.style
        if self.rate_hz is None:
            return view_frames(seed, numbers, self.size_wh, shadow_share=light, with_depth=depth, style=style)
        return sequence_frames(
            seed, numbers, self.size_wh, rate_hz=self.rate_hz, shadow_share=light, with_depth=depth, style=style
        )


def write_dataset(root: Path, settings: SimulationSettings, images: int, *, processes: int | None = None) -> int:
    """Render what is missing of a data set, then write its JSON files; the result depends on `settings` and `images`.

    Files: `<split>/*.jpg`, `annotations/panoptic_<split>/*.png`, `annotations/panoptic_<split>.json`,
    `annotations/captions_<split>.json`, `depth_<split>/*.png` (16 bit, mm), and the journal
    `annotations/simulation_<split>.jsonl`. A finished set can be continued with more images.

    Args:
        root: Folder of the data set; other splits may be in it.
        settings: What the images depend on.
        images: Number of images.
        processes: Rendering processes, by default one per core.

    Returns:
        How many images were rendered by this call.

    Raises:
        DataError: The folder holds another data set or cannot be written, or `images` or `processes` is out of range.
    """
    processes = (os.cpu_count() or 1) if processes is None else processes
    _check_counts(settings, images, processes)
    try:
        return _write_dataset(root, settings, images, processes)
    except OSError as error:
        raise DataError(f'{root}: the data set cannot be written: {error}') from error
    except BrokenProcessPool as error:
        raise DataError(
            f'{root}: a rendering process died, out of memory? The same command goes on: {error}'
        ) from error


def _check_counts(settings: SimulationSettings, images: int, processes: int) -> None:
    if images < 1:
        raise DataError(f'a data set has 1 image or more, got {images}')
    if processes < 1:
        raise DataError(f'processes must be 1 or more, got {processes}')
    rooms = -(-images // settings.images_per_room)
    last = FIRST_SEED[settings.split] + rooms - 1
    if split_of(last) != settings.split:
        raise DataError(f'{images} images need {rooms} rooms; split {settings.split} ends before room {last}')


def _write_dataset(root: Path, settings: SimulationSettings, images: int, processes: int) -> int:
    split, annotations = settings.split, root / 'annotations'
    folders = [root / split, annotations / f'panoptic_{split}']
    if settings.with_depth:
        folders.append(root / f'depth_{split}')
    journal_path = annotations / f'simulation_{split}.jsonl'
    if not journal_path.exists() and any(folder.exists() for folder in folders):
        raise DataError(f'{root} holds a data set {split} without {journal_path.name}: it is not ours to write to')
    annotations.mkdir(parents=True, exist_ok=True)
    arguments = {'version': _version(), **asdict(settings)}
    if settings.style is None:
        # As before there were styles: sets that were written then can go on.
        del arguments['style']
    with RenderJournal(journal_path, arguments) as journal:
        if max(journal.records, default=0) > images:
            raise DataError(f'{root} holds {max(journal.records)} images of {split} already, more than {images}')
        for folder in folders:
            folder.mkdir(exist_ok=True)
        missing = [index for index in range(images) if not _is_finished(journal, index, settings, folders)]
        with (
            tqdm(total=images, initial=images - len(missing), unit='image', desc=split, file=sys.stderr) as progress,
            closing(_rendered(root, settings, missing, processes)) as records,
        ):
            for record in records:
                if record['image']['id'] not in journal.records:
                    journal.add(record)
                progress.update()
        # A killed run leaves these.
        for folder, pattern in [*((folder, '*') for folder in folders), (annotations, f'*_{split}.json.*')]:
            for path in folder.glob(pattern + _UNFINISHED):
                path.unlink()
        _write_documents(annotations, settings, [journal.records[index + 1] for index in range(images)])
    return len(missing)


def _version() -> str:
    version = ElementTree.parse(share_dir() / 'package.xml').findtext('version')
    assert version is not None
    return version


def _is_finished(journal: RenderJournal, index: int, settings: SimulationSettings, folders: list[Path]) -> bool:
    stem = settings.file_stem(index)
    return index + 1 in journal.records and all(
        (folder / f'{stem}{ending}').is_file()
        for folder, ending in zip(folders, ('.jpg', '.png', '.png'), strict=False)
    )


def _rendered(root: Path, settings: SimulationSettings, missing: list[int], processes: int) -> Generator[Record]:
    """Render the images `missing` and yield their records in this order."""
    tasks: list[list[int]] = []
    for index in missing:
        is_same_room = tasks and tasks[-1][0] // settings.images_per_room == index // settings.images_per_room
        if is_same_room and len(tasks[-1]) < _IMAGES_PER_TASK:
            tasks[-1].append(index)
        else:
            tasks.append([index])
    if not tasks:
        return
    # MuJoCo's off-screen contexts do not survive a fork.
    context = multiprocessing.get_context('spawn')
    count = len(tasks)
    with ProcessPoolExecutor(min(processes, count), context, initializer=_prepare_process) as pool:
        for records in pool.map(_render_task, [root] * count, [settings] * count, tasks):
            yield from records


def _prepare_process() -> None:
    """Let a rendering process end with the one that started it, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _render_task(root: Path, settings: SimulationSettings, indices: list[int]) -> list[Record]:
    room = indices[0] // settings.images_per_room
    numbers = [index % settings.images_per_room for index in indices]
    return [_write_frame(root, settings, room, frame) for frame in settings.frames(room, numbers)]


def _write_frame(root: Path, settings: SimulationSettings, room: int, frame: Frame) -> Record:
    """Write the files of one image; returns its COCO entries."""
    split = settings.split
    index = room * settings.images_per_room + frame.number
    stem = settings.file_stem(index)
    png = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]
    _write_image(
        root / split / f'{stem}.jpg',
        np.asarray(cv2.cvtColor(frame.color, cv2.COLOR_RGB2BGR), np.uint8),
        [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
    )
    _write_image(root / 'annotations' / f'panoptic_{split}' / f'{stem}.png', encode_ids(frame.instance_map), png)
    if frame.depth is not None:
        depth_mm = np.clip(np.rint(frame.depth * 1000), 0, 65535).astype(np.uint16)
        _write_image(root / f'depth_{split}' / f'{stem}.png', depth_mm, png)
    image = {
        'id': index + 1, 'file_name': f'{stem}.jpg', 'width': settings.size_wh[0], 'height': settings.size_wh[1],
    }  # fmt: skip
    if settings.rate_hz is not None:
        image |= {'video_id': room + 1, 'frame_id': frame.number}
    segments = [
        {
            'id': segment.id,
            'category_id': segment.class_id,
            'area': segment.area,
            'bbox': _bbox(segment.box_xyxy),
            'iscrowd': 0,
        }
        for segment in frame.segments
    ]
    rng = np.random.default_rng([FIRST_SEED[split] + room, _CAPTION_STREAM, frame.number])
    return {
        'image': image,
        'annotation': {'image_id': index + 1, 'file_name': f'{stem}.png', 'segments_info': segments},
        'captions': _captions(rng, frame, index + 1),
    }


def _captions(rng: np.random.Generator, frame: Frame, image_id: int) -> list[dict[str, Any]]:
    words = shipped_words()
    whole = [
        {'image_id': image_id, 'caption': image_caption(rng, frame.segments, frame.attributes, words)}
        for _ in range(_CAPTIONS_PER_IMAGE)
    ]
    return whole + [
        {
            'image_id': image_id,
            'segment_id': segment.id,
            'bbox': _bbox(segment.box_xyxy),
            'caption': object_caption(rng, segment.class_name, attributes, words),
        }
        for segment, attributes in zip(frame.segments, frame.attributes, strict=True)
    ]


def _bbox(box_xyxy: tuple[int, int, int, int]) -> list[int]:
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def _write_image(path: Path, image: NDArray[np.uint8] | NDArray[np.uint16], options: list[int]) -> None:
    _, encoded = cv2.imencode(path.suffix, image, options)
    _write_whole(path, encoded.tobytes())


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    unfinished = path.with_name(f'{path.name}.{os.getpid()}{_UNFINISHED}')
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _write_documents(annotations: Path, settings: SimulationSettings, records: list[Record]) -> None:
    split = settings.split
    first = FIRST_SEED[split]
    rooms = -(-len(records) // settings.images_per_room)
    info = {
        'description': f'fisa_ros: simulated {settings.style or "room"}s, split {split}',
        'version': _version(),
        'split': split,
        'seeds': [first, first + rooms - 1],
    }
    images = [record['image'] for record in records]
    panoptic = {
        'info': info,
        'categories': [
            {'id': entry.id, 'name': entry.name, 'isthing': int(entry.is_thing), 'supercategory': ''}
            for entry in (CATEGORIES + SITE_CATEGORIES if settings.style in SITES else CATEGORIES)
        ],
        'images': images,
        'annotations': [record['annotation'] for record in records],
    }
    if settings.rate_hz is not None:
        width, height = settings.size_wh
        panoptic['videos'] = [
            {'id': room + 1, 'name': f'seq_{room + 1:04d}', 'width': width, 'height': height, 'fps': settings.rate_hz}
            for room in range(rooms)
        ]
    entries = [entry for record in records for entry in record['captions']]
    captions = {
        'info': info,
        'images': images,
        'annotations': [{'id': number, **entry} for number, entry in enumerate(entries, start=1)],
    }
    for kind, document in (('captions', captions), ('panoptic', panoptic)):
        _write_whole(annotations / f'{kind}_{split}.json', json.dumps(document).encode())

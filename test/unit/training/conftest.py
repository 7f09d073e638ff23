import json

import cv2
import numpy as np
import pytest

from fisa_ros.datasets.coco_panoptic import PanopticDataset, encode_ids

CATEGORIES = ((3, 'floor', 0), (7, 'chair', 1), (9, 'ball', 1))
COLORS = {3: (120, 90, 60), 7: (30, 160, 40), 9: (220, 30, 30)}


def write_toy_split(root, split, count, size_wh=(64, 48)):
    """Write images of a floor with a chair and a ball on it, in COCO's layout, with captions."""
    width, height = size_wh
    rng = np.random.default_rng(len(split))
    maps = root / 'annotations' / f'panoptic_{split}'
    maps.mkdir(parents=True)
    (root / split).mkdir()
    images, annotations, captions = [], [], []
    for number in range(count):
        panoptic_map = np.full((height, width), 1, np.int32)
        segments = [{'id': 1, 'category_id': 3, 'iscrowd': 0}]
        boxes = {1: (0, 0, width, height)}
        for segment_id, category in ((2, 7), (300, 9)):
            x, y = int(rng.integers(width - 20)), int(rng.integers(height - 20))
            panoptic_map[y : y + 16, x : x + 16] = segment_id
            boxes[segment_id] = (x, y, 16, 16)
            if (panoptic_map == 2).any() or segment_id != 2:
                segments.append({'id': segment_id, 'category_id': category, 'iscrowd': 0})
        segments = [entry for entry in segments if (panoptic_map == entry['id']).any()]
        image = np.zeros((height, width, 3), np.uint8)
        for entry in segments:
            image[panoptic_map == entry['id']] = COLORS[entry['category_id']]
        name = f'{number:06d}'
        cv2.imwrite(str(root / split / f'{name}.png'), image[..., ::-1])
        cv2.imwrite(str(maps / f'{name}.png'), encode_ids(panoptic_map))
        images.append({'id': number, 'file_name': f'{name}.png', 'height': height, 'width': width})
        annotations.append({'image_id': number, 'file_name': f'{name}.png', 'segments_info': segments})
        captions.append({'id': len(captions), 'image_id': number, 'caption': 'a room with a chair and a ball'})
        names = {category: word for category, word, _ in CATEGORIES}
        for entry in segments:
            caption = {'image_id': number, 'caption': f'a {names[entry["category_id"]]}', 'segment_id': entry['id']}
            captions.append({'id': len(captions), **caption, 'bbox': list(boxes[entry['id']])})
    categories = [{'id': key, 'name': name, 'isthing': thing} for key, name, thing in CATEGORIES]
    document = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / f'panoptic_{split}.json').write_text(json.dumps(document))
    text = json.dumps({'images': images, 'annotations': captions})
    (root / 'annotations' / f'captions_{split}.json').write_text(text)


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory):
    """Folder with the splits train and validation."""
    root = tmp_path_factory.mktemp('toy')
    write_toy_split(root, 'train', 6)
    write_toy_split(root, 'validation', 3)
    return root


@pytest.fixture(scope='session')
def toy_dataset(toy_data):
    return PanopticDataset.open(toy_data / 'train', toy_data / 'annotations' / 'panoptic_train.json')


@pytest.fixture
def write_split():
    return write_toy_split

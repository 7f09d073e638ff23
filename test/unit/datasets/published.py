"""Writes miniatures of published data sets, laid out as the originals are."""

import json

import cv2
import numpy as np

from fisa_ros.datasets.coco_panoptic import encode_ids

HEIGHT, WIDTH = 40, 60


def blocks(values):
    """Return `(40, 60)` int64 of equal upright stripes."""
    return np.repeat(np.array(values), WIDTH // len(values))[None].repeat(HEIGHT, 0)


def write_image(path, size_hw=(HEIGHT, WIDTH)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(len(path.name)).integers(0, 256, (*size_hw, 3), np.uint8)
    assert cv2.imwrite(str(path), image)


def write_map(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    # Pillow, which the originals are prepared with, does not compress TIFF.
    assert cv2.imwrite(str(path), values, [cv2.IMWRITE_TIFF_COMPRESSION, 1] if path.suffix == '.tif' else [])


def write_panoptic(
    images_dir, maps_dir, path, categories, frames, image_name='{}.jpg', map_name='{}.png', write=None, swapped=False,
    areas=None,
):  # fmt: skip
    """Write a JSON of the COCO panoptic form, its PNGs and its images.

    Args:
        categories: Id, name, whether a thing.
        frames: By image id, the segment id of each stripe and category and crowd by segment id.
        image_name: In the JSON.
        write: Path of the image by its id, where it is not `image_name` below `images_dir`.
        areas: Of segments that others cover, by segment id.
        swapped: Whether the JSON has the width as height.
    """
    document = {
        'images': [], 'annotations': [],
        'categories': [{'id': key, 'name': name, 'isthing': int(thing)} for key, name, thing in categories],
    }  # fmt: skip
    for image_id, (stripes, segments) in frames.items():
        write_image(write(image_id) if write else images_dir / image_name.format(image_id))
        write_map(maps_dir / map_name.format(image_id), encode_ids(blocks(stripes)))
        height, width = (WIDTH, HEIGHT) if swapped else (HEIGHT, WIDTH)
        document['images'].append(
            {'id': image_id, 'file_name': image_name.format(image_id), 'height': height, 'width': width}
        )
        area_of = {key: int((blocks(stripes) == key).sum()) for key in segments} | (areas or {})
        infos = [
            {'id': key, 'category_id': category, 'iscrowd': int(crowd), 'area': area_of[key], 'bbox': [0, 0, 1, 1]}
            for key, (category, crowd) in segments.items()
        ]
        document['annotations'].append(
            {'image_id': image_id, 'file_name': map_name.format(image_id), 'segments_info': infos}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return document


def coco(root, maps='annotations/panoptic_val2017'):
    """COCO: numbers as image ids, names of 12 digits."""
    return write_panoptic(
        root / 'val2017', root / maps, root / 'annotations/panoptic_val2017.json',
        [(1, 'person', True), (187, 'sky-other-merged', False), (171, 'wall-brick', False)],
        {
            139: ([5, 258, 70000], {5: (1, False), 258: (187, False), 70000: (1, True)}),
            285: ([0, 9], {9: (171, False)}),
        },
        image_name='{:012}.jpg', map_name='{:012}.png',
    )  # fmt: skip


def ade_panoptic(root, folder='ADEChallengeData2016', *, hidden=False):
    """ADE20K after `prepare_ade20k_pan_seg.py`: names as image ids, stuff that things may cover."""
    segments, areas = {1: (0, False), 2: (12, False), 3: (12, False)}, {}
    if hidden:
        segments[4] = (2, False)
        areas = {1: 1600, 4: 800}
    base = root / folder
    return write_panoptic(
        base / 'images/validation', base / 'ade20k_panoptic_val', base / 'ade20k_panoptic_val.json',
        [(0, 'wall', False), (2, 'sky', False), (8, 'window ', True), (12, 'person', True)],
        {'ADE_val_00000001': ([1, 2, 3], segments), 'ADE_val_00000002': ([1, 0], {1: (8, False)})},
        areas=areas,
    )  # fmt: skip


def semantic(images_dir, maps_dir, stripes_of, dtype=np.uint8, map_suffix='.png'):
    """Maps of classes and their images."""
    for stem, stripes in stripes_of.items():
        write_image(images_dir / f'{stem}.jpg')
        write_map(maps_dir / f'{stem}{map_suffix}', blocks(stripes).astype(dtype))


def ade_semantic(root, folder='ADEChallengeData2016'):
    """ADE20K as published: 0 is other, 150 the flag."""
    base = root / folder
    semantic(
        base / 'images/validation', base / 'annotations/validation',
        {'ADE_val_00000001': [0, 1, 150], 'ADE_val_00000002': [13, 13]},
    )  # fmt: skip


def ade_full(root, suffix='.tif'):
    """ADE20K's 847 classes after `prepare_ade20k_full_sem_seg.py`."""
    base = root / 'ADE20K_2021_17_01'
    semantic(
        base / 'images_detectron2/validation', base / 'annotations_detectron2/validation',
        {'ADE_val_00000001': [65535, 0, 846], 'ADE_val_00000002': [300, 301]}, np.uint16, suffix,
    )  # fmt: skip


CITY = 'frankfurt_000000_000294'
OTHER_CITY = 'lindau_000000_000019'
# Out of the region, road, a group of cars, two cars, a caravan, which is not evaluated.
CITY_STRIPES = [3, 7, 26, 26000, 26001, 29000]


def _city_image(root):
    return lambda stem: root / 'leftImg8bit/val' / stem.split('_')[0] / f'{stem}_leftImg8bit.png'


def cityscapes_panoptic(root):
    """Cityscapes after `createPanopticImgs.py`: names of images without their city's folder."""
    truth = [value if value not in (3, 29000) else 0 for value in CITY_STRIPES]
    segments = {7: (7, False), 26: (26, True), 26000: (26, False), 26001: (26, False)}
    return write_panoptic(
        None, root / 'gtFine/cityscapes_panoptic_val', root / 'gtFine/cityscapes_panoptic_val.json',
        [(7, 'road', False), (26, 'car', True), (23, 'sky', False)],
        {CITY: (truth, segments), OTHER_CITY: ([23, 0], {23: (23, False)})},
        image_name='{}_gtFine_leftImg8bit.png', map_name='{}_gtFine_panoptic.png', write=_city_image(root),
    )  # fmt: skip


def cityscapes_instances(root):
    """Cityscapes as published, with the other maps that lie beside those of the instances."""
    for stem, stripes in {CITY: CITY_STRIPES, OTHER_CITY: [0, 23]}.items():
        write_image(_city_image(root)(stem))
        city = root / 'gtFine/val' / stem.split('_')[0]
        write_map(city / f'{stem}_gtFine_instanceIds.png', blocks(stripes).astype(np.uint16))
        write_map(city / f'{stem}_gtFine_labelIds.png', blocks([1, 2]).astype(np.uint8))
        (city / f'{stem}_gtFine_polygons.json').write_text('{}')


def vistas(root, maps='validation/v1.2/panoptic'):
    """Mapillary Vistas: the PNGs lie beside the JSON, which has width and height the wrong way round."""
    return write_panoptic(
        root / 'validation/images', root / maps, root / maps / 'panoptic_2018.json',
        [(1, 'Bird', True), (14, 'Road', False), (25, 'Lane Marking - General', False), (65, 'Ego Vehicle', False)],
        {'a-_B': ([3, 900, 2], {3: (14, False), 900: (1, False), 2: (25, False)}), 'cd': ([7], {7: (65, False)})},
        swapped=True,
    )  # fmt: skip


def pascal(root, name, layout='fc-clip'):
    """Pascal Context as three public tool sets prepare it."""
    full = name.endswith('459')
    images, maps = {
        'fc-clip': ('pascal_ctx_d2/images/validation', f'pascal_ctx_d2/annotations_ctx{name[15:]}/validation'),
        'san': (f'pcontext{"_full" * full}/val/image', f'pcontext{"_full" * full}/val/label'),
        'voc': ('VOCdevkit/VOC2010/JPEGImages', f'VOCdevkit/VOC2010/annotations_detectron2/pc{name[15:]}_val'),
    }[layout]
    void, last, dtype, suffix = (65535, 458, np.uint16, '.tif') if full else (255, 58, np.uint8, '.png')
    semantic(root / images, root / maps, {'2008_000002': [void, 0, last], '2008_000003': [10, 10]}, dtype, suffix)
    if layout == 'voc':
        write_image(root / images / '2007_000001.jpg')

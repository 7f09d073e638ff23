"""Tiny parts; a small model of the kind of fisa-s, COCO in miniature, and a recipe for both.

As a script it is `tools.train`.
"""

import json
import sys

import cv2
import numpy as np
import open_clip
import yaml

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.datasets.coco_panoptic import encode_ids
from fisa_ros.networks.random_model import write_random_model

SIZE, TOWER_SIZE = 64, 48
NAME = 'small-fisa'
TINY_GENERATOR = {
    'type': 'tiny', 'image_size': SIZE, 'num_queries': 6, 'channels': [8, 16, 32], 'blocks': [0, 0, 1], 'heads': 2,
    'encoder_blocks': 1, 'query_blocks': 1, 'mask_channels': 8,
}  # fmt: skip
TINY_CLASSIFIER = {
    'type': 'tiny', 'image_size': SIZE, 'text_dim': 16, 'width': 32, 'layers': 2, 'heads': 2,
    'stem_channels': [8, 16, 32], 'stem_blocks': [0, 0, 1], 'seve_blocks': 1, 'seve_width': 16, 'merge_size': 32,
}  # fmt: skip
_CLIP = {
    'embed_dim': 32,
    'vision_cfg': {'image_size': 32, 'layers': 3, 'width': 64, 'head_width': 32, 'patch_size': 8},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2},
}
GENERATOR = {
    'type': 'eomt',
    'config': {
        'image_size': SIZE, 'patch_size': 16, 'hidden_size': 64, 'num_hidden_layers': 3, 'num_attention_heads': 2,
        'num_blocks': 2, 'num_queries': 12, 'num_labels': 5,
    },
}  # fmt: skip
# Ids, names and kinds as COCO has them.
CATEGORIES = ((1, 'person', 1), (62, 'chair', 1), (190, 'floor-other-merged', 0), (199, 'wall-other-merged', 0))
_COLORS = {1: (210, 60, 60), 62: (40, 170, 60), 190: (120, 90, 60), 199: (200, 200, 190)}


def register_clip():
    """Make the small CLIP known to open_clip, which has none as small."""
    open_clip.factory._MODEL_CONFIGS['small-vit'] = _CLIP


def write_model(folder, seed=4):
    """Write weights and manifest of the small model; returns the manifest's path."""
    document = yaml.safe_load((share_dir() / 'models' / 'fisa-s.yaml').read_text())
    document |= {
        'name': NAME,
        'licence': 'MIT, for the test',
        'image_size_hw': [SIZE, SIZE],
        'weights': {'file': f'{NAME}.safetensors', 'sha256': None},
        'generator': GENERATOR,
        'classifier': {
            'type': 'open_clip', 'model': 'small-vit', 'image_size': TOWER_SIZE, 'seve_blocks': 2, 'seve_width': 16,
            'merge_size': 32,
        },
        'text_encoder': {'type': 'clip', 'model': 'small-vit'},
        # One, as all 133 categories of COCO and their synonyms are encoded.
        'prompt_templates': ['a photo of a {}.'],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{NAME}.yaml'
    path.write_text(yaml.safe_dump(document))
    written = write_random_model(load_manifest(path), folder / 'random', seed)
    # Random weights have no sources; those that a model is put together from do.
    written.write_text(yaml.safe_dump({**yaml.safe_load(written.read_text()), 'sources': document['sources']}))
    return written


def write_coco(root, split, count):
    """Write a split in the layout of COCO: JPEG images of several sizes, PNG maps, one JSON."""
    rng = np.random.default_rng(count)
    maps = root / 'annotations' / f'panoptic_{split}'
    maps.mkdir(parents=True)
    (root / split).mkdir()
    images, annotations = [], []
    for number in range(count):
        width, height = (80, 60) if number % 3 else (60, 90)
        panoptic_map = np.full((height, width), 5_000_000 + number, np.int32)
        panoptic_map[height // 2 :] = 7_654_321
        kinds = {5_000_000 + number: 199, 7_654_321: 190}
        for segment_id, category in ((1_234_567, 1), (99, 62)):
            x, y = int(rng.integers(width - 24)), int(rng.integers(height - 24))
            panoptic_map[y : y + 24, x : x + 24] = segment_id
            kinds[segment_id] = category
        panoptic_map[:3] = 0
        kinds = {key: category for key, category in kinds.items() if (panoptic_map == key).any()}
        image = rng.integers(0, 30, (height, width, 3), np.uint8)
        for key, category in kinds.items():
            image[panoptic_map == key] += np.array(_COLORS[category], np.uint8)
        name = f'{number:012d}'
        cv2.imwrite(str(root / split / f'{name}.jpg'), image[..., ::-1])
        cv2.imwrite(str(maps / f'{name}.png'), encode_ids(panoptic_map))
        images.append({'id': number, 'file_name': f'{name}.jpg', 'height': height, 'width': width})
        segments = [{'id': key, 'category_id': category, 'iscrowd': 0} for key, category in kinds.items()]
        annotations.append({'image_id': number, 'file_name': f'{name}.png', 'segments_info': segments})
    categories = [{'id': key, 'name': name, 'isthing': thing} for key, name, thing in CATEGORIES]
    document = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / f'panoptic_{split}.json').write_text(json.dumps(document))


def write_recipe(path, model, **changes):
    """Write the shipped recipe for a small model, shortened; returns its path as text."""
    document = yaml.safe_load((share_dir() / 'config' / 'recipes' / 'coco-fisa-s.yaml').read_text())
    document |= {
        'precision': 'fp32',
        'initial': str(model),
        'phases': [{'size': SIZE, 'batch_size': 4, 'steps': 6, 'learning_rate': 1.0e-2}],
        **changes,
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


if __name__ == '__main__':
    from fisa_ros.tools.train import main

    register_clip()
    sys.exit(main(sys.argv[1:]))

from collections.abc import Iterator, Sequence
import json
from pathlib import Path

import cv2
from hub_server import HubServer, hub_server
import numpy as np
from numpy.typing import NDArray
import pytest

from fisa_ros.core.manifest import ModelManifest, WeightsFile
from fisa_ros.core.placement import Placement
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState, unit_rows
from fisa_ros.datasets.coco_panoptic import encode_ids
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.backend import ProposedMasks, RawSegmentation, sure_mask_logits


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub without files, and an environment that leads to it and to a folder for models of this test alone."""
    for name in ('HTTPS_PROXY', 'HTTP_PROXY', 'NO_PROXY', 'ALL_PROXY', 'HF_TOKEN'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'models'))
    with hub_server() as (server, url):
        monkeypatch.setenv('HF_ENDPOINT', url)
        yield server


class ScriptedBackend:
    """Proposes given masks and sees a given word in each cell; every stage can be followed by hand.

    A mask's probabilities are the softmax of 10 x cosine with the words of its cells; void has cosine 0.5.
    """

    name = 'scripted'
    device = 'cpu'
    image_size_hw = (16, 16)
    precision = 'fp32'
    num_semantic_tokens = 4
    max_classes = None
    temperature = 1.0

    def __init__(self, words: Sequence[str], seen: list[list[int]], masks: list[list[list[int]]]) -> None:
        self.words = list(words)
        self.embedding_dim = len(words) + 1
        self.seen = np.eye(len(words) + 1, dtype=np.float32)[np.array(seen)]
        self.masks = np.array(masks, np.float32)
        self.objectness = np.ones(len(masks), np.float32)
        self.proposed_images = 0
        self.is_closed = False

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        rows = [self.words.index(word) if word in self.words else -1 for word in map(str.casefold, sentences)]
        return np.eye(self.embedding_dim, dtype=np.float32)[rows]

    def propose_masks(self, image: NDArray[np.uint8]) -> ProposedMasks:
        assert image.shape == (16, 16, 3)
        self.proposed_images += 1
        return ProposedMasks(sure_mask_logits(self.masks), self.objectness)

    def embed_masks(self, image, mask_logits, state):
        shares = np.clip(mask_logits / 16 + 0.5, 0, 1)
        return unit_rows(np.einsum('nhw,hwd->nd', shares, self.seen))

    def class_probabilities(self, mask_embeddings, state):
        cosine = np.einsum('nd,ksd->nks', mask_embeddings, state.text_embeddings)
        best = np.where(state.synonym_mask, cosine, -1.0).max(axis=-1)
        logits = 10 * np.concatenate([best, np.full((len(best), 1), 0.5)], axis=1) / self.temperature
        powers = np.exp(logits)
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)

    def classify_masks(self, image, masks, state):
        return self.class_probabilities(self.embed_masks(image, sure_mask_logits(masks), state), state)

    def merge_masks(self, masks, mask_embeddings, state, thresholds):
        probabilities = self.class_probabilities(mask_embeddings, state)
        best = probabilities[:, :-1].max(axis=1)
        score = np.where(best > probabilities[:, -1], best * masks.objectness, 0)
        return self.merge_classified(
            masks.mask_logits, probabilities[:, :-1].argmax(axis=1), score.astype(np.float32), state, thresholds
        )

    def merge_classified(self, mask_logits, class_index, score, state, thresholds):
        held = (mask_logits > 0) & (score >= thresholds.score)[:, None, None]
        is_shown = np.zeros(mask_logits.shape[1:], np.bool_)
        Placement.shown_of(thresholds.shown_hw, self.image_size_hw).shown(is_shown)[:] = True
        claim = held * is_shown * score[:, None, None]
        wins = (claim.argmax(axis=0) == np.arange(len(score))[:, None, None]) & (claim > 0)
        claim *= (wins.sum((1, 2)) >= thresholds.overlap * (claim > 0).sum((1, 2)))[:, None, None]
        query_map = np.where(claim.max(axis=0) > 0, claim.argmax(axis=0) + 1, 0).astype(np.int32)
        for row in np.flatnonzero(~state.is_thing):
            queries = np.flatnonzero(class_index == row) + 1
            query_map[np.isin(query_map, queries)] = queries.min(initial=len(score))
        return RawSegmentation(query_map, class_index.astype(np.int64), score)

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        proposed = self.propose_masks(image)
        return self.merge_masks(proposed, self.embed_masks(image, proposed.mask_logits, state), state, thresholds)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def scripted_segmenter(tmp_path):
    """Make a segmenter of a ScriptedBackend, whose arguments these are."""

    def make(words: Sequence[str], seen: list[list[int]], masks: list[list[list[int]]]) -> Segmenter:
        manifest = ModelManifest(
            name='scripted',
            description='Answers by a script.',
            licence='Apache-2.0',
            image_size_hw=ScriptedBackend.image_size_hw,
            weights=WeightsFile(tmp_path / 'none.safetensors', '0' * 64),
            generator={'type': 'scripted'},
            classifier={'type': 'scripted'},
            text_encoder={'type': 'scripted'},
            prompt_templates=('{}',),
            thresholds=Thresholds(score=0.3, mask=0.5, overlap=0.5),
        )
        return Segmenter(ScriptedBackend(words, seen, masks), manifest)

    return make


@pytest.fixture
def write_panoptic(tmp_path):
    """Write a data set in the COCO panoptic form; return the folder of images and the JSON."""

    def write(
        categories: list[tuple[int, str, bool]],
        frames: list[tuple[NDArray[np.uint8], NDArray[np.integer], dict[int, int]]],
        crowds: Sequence[int] = (),
    ) -> tuple[Path, Path]:
        images, maps = tmp_path / 'set' / 'test', tmp_path / 'set' / 'annotations' / 'panoptic_test'
        images.mkdir(parents=True)
        maps.mkdir(parents=True)
        document = {
            'images': [],
            'annotations': [],
            'categories': [{'id': key, 'name': name, 'isthing': int(thing)} for key, name, thing in categories],
        }
        for number, (image, panoptic_map, segments) in enumerate(frames):
            cv2.imwrite(str(images / f'{number}.png'), np.ascontiguousarray(image[..., ::-1]))
            cv2.imwrite(str(maps / f'{number}.png'), encode_ids(panoptic_map))
            height, width = panoptic_map.shape
            document['images'].append({'id': number, 'file_name': f'{number}.png', 'height': height, 'width': width})
            infos = [
                {'id': key, 'category_id': category, 'iscrowd': int(key in crowds)}
                for key, category in segments.items()
            ]
            document['annotations'].append({'image_id': number, 'file_name': f'{number}.png', 'segments_info': infos})
        path = maps.with_suffix('.json')
        path.write_text(json.dumps(document))
        return images, path

    return write

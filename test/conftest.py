from collections.abc import Sequence
import hashlib
from pathlib import Path

import cv2
from hypothesis import settings
import numpy as np
from numpy.typing import NDArray
import pytest

from fisa_ros.core.manifest import ModelManifest, WeightsFile
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import Vocabulary, VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import VocabularyState, unit_rows
from fisa_ros.runtime.backend import RawSegmentation

# A loaded machine is slow now and then; that is no error.
settings.register_profile('fisa', deadline=None)
settings.load_profile('fisa')

_COLOR_WORDS = {
    'black': (0, 0, 0),
    'blue': (0, 0, 255),
    'green': (0, 255, 0),
    'red': (255, 0, 0),
    'white': (255, 255, 255),
    'yellow': (255, 255, 0),
}


class ColorBackend:
    """Finds regions of flat colour by the names of colours; a thing is one connected region."""

    name = 'color'
    device = 'cpu'
    image_size_hw = (48, 64)
    embedding_dim = 3
    precision = 'fp32'
    num_semantic_tokens = 4
    max_classes = None

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.is_closed = False

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        self.sentences += sentences
        return np.stack([self._encode(sentence) for sentence in sentences])

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        assert image.shape == (*self.image_size_hw, 3)
        assert image.dtype == np.uint8
        pixels = unit_rows(image.astype(np.float32) - 127.5)
        similarity = np.einsum('hwd,ksd->hwks', pixels, state.text_embeddings)
        similarity = np.where(state.synonym_mask, similarity, -1.0).max(axis=-1)
        nearest, closeness = similarity.argmax(axis=-1), similarity.max(axis=-1)
        query_map = np.zeros(self.image_size_hw, np.int32)
        rows: list[int] = []
        scores: list[float] = []
        for row, is_thing in enumerate(state.is_thing):
            region = (nearest == row) & (closeness >= thresholds.score)
            num_parts, parts = cv2.connectedComponents(region.astype(np.uint8))
            if not is_thing:
                num_parts, parts = 2, region.astype(np.int32)
            for part in range(1, num_parts):
                if (parts == part).any():
                    rows.append(row)
                    scores.append(float(closeness[parts == part].mean()))
                    query_map[parts == part] = len(rows)
        return RawSegmentation(query_map, np.array(rows, np.int64), np.array(scores, np.float32))

    def close(self) -> None:
        self.is_closed = True

    @staticmethod
    def _encode(sentence: str) -> NDArray[np.float32]:
        for word, color in _COLOR_WORDS.items():
            if word in sentence.lower():
                return unit_rows(np.array(color, np.float32) - 127.5)
        digest = hashlib.sha256(sentence.encode()).digest()
        return unit_rows(np.frombuffer(digest[:3], np.uint8).astype(np.float32) - 127.5)


@pytest.fixture
def color_backend() -> ColorBackend:
    return ColorBackend()


@pytest.fixture
def color_manifest(tmp_path: Path) -> ModelManifest:
    return ModelManifest(
        name='color',
        description='Names of colours.',
        licence='Apache-2.0',
        image_size_hw=ColorBackend.image_size_hw,
        weights=WeightsFile(tmp_path / 'color.safetensors', '0' * 64),
        generator={'type': 'color'},
        classifier={'type': 'color'},
        text_encoder={'type': 'color'},
        prompt_templates=('a photo of {}.', '{} in a room.'),
        thresholds=Thresholds(score=0.9, mask=0.5, overlap=0.8),
    )


@pytest.fixture
def flags() -> NDArray[np.uint8]:
    """Image of 120x160: green ground, two red squares, one blue one."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[:] = (0, 255, 0)
    image[20:40, 20:60] = (255, 0, 0)
    image[80:100, 20:40] = (255, 0, 0)
    image[40:100, 100:140] = (0, 0, 255)
    return image


@pytest.fixture
def color_vocabulary() -> Vocabulary:
    request = VocabularyRequest(('red flag', 'blue flag, navy', 'green, lawn'), stuff_classes=('green',))
    return VocabularyRegistry(stuff_words=()).propose(request)

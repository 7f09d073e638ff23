"""From an image and a vocabulary to a panoptic result."""

import logging
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import ImageError, VocabularyError
from fisa_ros.core.manifest import ModelManifest, load_manifest, untuned_note
from fisa_ros.core.placement import Placement
from fisa_ros.core.resources import cache_dir as default_cache_dir
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.core.vocabulary_state import VocabularyState, build_state, unit_rows
from fisa_ros.pipeline.image_scaling import place_image
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.pipeline.text_cache import TextEmbeddingCache, text_cache_folder
from fisa_ros.runtime.backend import Backend, Thresholds
from fisa_ros.runtime.factory import create_backend

MAX_IMAGE_SIDE = 16384
MAX_IMAGE_PIXELS = 1 << 26
_NAMES_PER_CALL = 64

_log = logging.getLogger('fisa_ros.segmenter')


class Segmenter:
    """Segments images with one model; `prepare` and `segment` may run at once in two threads."""

    def __init__(self, backend: Backend, manifest: ModelManifest, cache_dir: Path | None = None) -> None:
        """Use a back-end that is already loaded.

        Args:
            backend: The networks.
            manifest: The model that the back-end runs.
            cache_dir: Folder that keeps text embeddings; None keeps them in memory only.
        """
        self.backend = backend
        self.manifest = manifest
        if note := untuned_note(manifest):
            _log.warning('%s', note)
        folder = None if cache_dir is None else text_cache_folder(cache_dir, manifest)
        self._text_cache = TextEmbeddingCache(folder, backend.embedding_dim)

    @classmethod
    def load(
        cls,
        model: str | Path = 'fisa-tiny',
        backend: str = 'auto',
        device: str = 'auto',
        precision: str = 'auto',
        *,
        cache: bool = True,
    ) -> Self:
        """Load a model by the name or the path of its manifest; see `create_backend` for the rest.

        Raises:
            ManifestError: No such model.
            WeightsError: Its weights are missing or do not fit.
            BackendUnavailableError: The back-end or the device is not there.
        """
        manifest = load_manifest(model)
        folder = default_cache_dir() if cache else None
        return cls(create_backend(manifest, backend, device, precision), manifest, folder)

    @property
    def default_thresholds(self) -> Thresholds:
        """Thresholds that fit the model."""
        return self.manifest.thresholds

    @property
    def method(self) -> str:
        """The model and what it runs on, in words."""
        backend = self.backend
        return f'{self.manifest.name} ({backend.name} on {backend.device}, {backend.precision})'

    def placement(self, image_hw: tuple[int, int]) -> Placement:
        """Return where an image of a size lies in what the back-end gets."""
        return self.manifest.resize.place(image_hw, self.backend.image_size_hw)

    def check_size(self, vocabulary: Vocabulary) -> None:
        """Check that the back-end takes so many classes.

        Raises:
            VocabularyError: It takes fewer.
        """
        limit = self.backend.max_classes
        if limit is not None and len(vocabulary.classes) > limit:
            raise VocabularyError(
                f'the vocabulary has {len(vocabulary.classes)} classes, the back-end takes at most {limit}'
            )

    def prepare(self, vocabulary: Vocabulary) -> VocabularyState:
        """Encode the names of a vocabulary; those met before are not encoded again.

        Raises:
            VocabularyError: The back-end takes fewer classes.
        """
        self.check_size(vocabulary)
        names = [name for entry in vocabulary.classes for name in entry.names]
        embeddings = self._text_cache.get(names)
        missing = [name for name in names if name not in embeddings]
        for start in range(0, len(missing), _NAMES_PER_CALL):
            encoded = self._encode(missing[start : start + _NAMES_PER_CALL])
            self._text_cache.put(encoded)
            embeddings |= encoded
        _log.info('vocabulary %d: %d names, %d of them new', vocabulary.version, len(names), len(missing))
        return build_state(vocabulary, embeddings, self.backend.num_semantic_tokens)

    def segment(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds | None = None
    ) -> PanopticResult:
        """Segment one image.

        Args:
            image: `(H, W, 3)` uint8 rgb.
            state: The vocabulary, from `prepare`.
            thresholds: What a segment must reach; by default what fits the model.

        Raises:
            ImageError: The image has another shape or type, or is too large.
        """
        check_image(image)
        placement = self.placement((image.shape[0], image.shape[1]))
        placed = (thresholds or self.default_thresholds).placed(placement.shown_hw)
        raw = self.backend.segment(place_image(image, placement), state, placed)
        return list_segments(raw, state.vocabulary, placement)

    def close(self) -> None:
        """Free the back-end."""
        self.backend.close()

    def _encode(self, names: list[str]) -> dict[str, NDArray[np.float32]]:
        templates = self.manifest.prompt_templates
        sentences = [template.replace('{}', name) for name in names for template in templates]
        per_sentence = self.backend.encode_text(sentences).reshape(len(names), len(templates), -1)
        return dict(zip(names, unit_rows(per_sentence.mean(axis=1)), strict=True))


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse what is not an rgb image.

    Raises:
        ImageError: The image is not `(H, W, 3)` uint8, is empty or too large.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f'image must be (H, W, 3) uint8 rgb, got {image.shape} {image.dtype}')
    height, width = image.shape[:2]
    if not (1 <= height <= MAX_IMAGE_SIDE and 1 <= width <= MAX_IMAGE_SIDE and height * width <= MAX_IMAGE_PIXELS):
        raise ImageError(
            f'image is {width}x{height}: sides must be in 1..{MAX_IMAGE_SIDE} with at most {MAX_IMAGE_PIXELS} pixels'
        )

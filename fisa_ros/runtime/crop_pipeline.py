"""What is measured against: a mask generator, then CLIP on a crop of the image for each of its masks.

Weights, runtime, classification and merge are those of the model itself; only where mask embeddings come from differs.
"""

from collections.abc import Sequence
import importlib.util
import logging
import os
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import BackendUnavailableError, GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.placement import Placement
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.runtime import crop_files, graph_files
from fisa_ros.runtime.backend import RawSegmentation
from fisa_ros.runtime.mask_crops import mask_crops
from fisa_ros.runtime.onnxruntime_backend import open_session, session_options
from fisa_ros.runtime.text_graph import TextGraph

BATCHES = (1, 2, 4, 8, 16)
"""Batch sizes that are tried, besides all masks at once."""
CONTEXT = 1.25
"""Edge of a crop by the edge of its mask's box."""
_ROUNDS = 2
_LOG = logging.getLogger('fisa_ros.crop_pipeline')


class CropPipeline:
    """A back-end that crops every mask that is not empty and embeds the crops with CLIP, in batches.

    Crops are cut from the image that `segment` gets, which is already at the network's size, without its padding. All
    empty masks share the embedding of the whole image.

    Args:
        manifest: The model.
        folder: Its exported graphs.
        threads: Threads of an operator; by default one per core of this process.
        batch: Crops in one call of CLIP; None measures `BATCHES` and all masks at once, and takes the fastest.
        crops: Folder of the crop graphs; None is `crop_files.crops_folder(folder)`.

    Raises:
        GraphsError: The graphs are missing, damaged or of another model.
        ValueError: `batch` is below 1.
    """

    name, device, precision, max_classes = 'crops', 'cpu', 'fp32', None

    def __init__(
        self,
        manifest: ModelManifest,
        folder: Path,
        threads: int | None = None,
        batch: int | None = None,
        *,
        crops: Path | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise ValueError(f'batch must be at least 1, got {batch}')
        description = graph_files.open_graphs(folder, manifest)
        crops = crop_files.crops_folder(folder) if crops is None else crops
        crops_description = crop_files.open_crop_graphs(crops, manifest)
        self.image_size_hw = description.image_size_hw
        self.embedding_dim = description.embedding_dim
        self.num_semantic_tokens = description.num_semantic_tokens
        self.crop_size_hw = crops_description.crop_size_hw
        self.threads = threads or len(os.sched_getaffinity(0))
        options = session_options(self.threads)
        self._generator = open_session(crops / crop_files.GENERATOR_FILE, options)
        self._clip = open_session(crops / crop_files.CLIP_IMAGE_FILE, options)
        self._head = open_session(folder / graph_files.HEAD_FILE, options)
        self._text = TextGraph(folder, description)
        self.batch = self._fastest_batch(description.num_masks) if batch is None else batch

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """See `Backend.segment`."""
        mask_logits, objectness = self._generator.run(crop_files.GENERATOR_OUTPUTS, {'image': image})
        crops, crop_of_mask = mask_crops(
            image,
            mask_logits,
            size_hw=self.crop_size_hw,
            mask_threshold=thresholds.mask,
            context=CONTEXT,
            placement=Placement.shown_of(thresholds.shown_hw, self.image_size_hw),
        )
        inputs = {
            'mask_logits': mask_logits,
            'mask_embeddings': self.embed_crops(crops)[crop_of_mask],
            'objectness': objectness,
            'text_embeddings': state.text_embeddings,
            'synonym_mask': state.synonym_mask,
            'is_thing': state.is_thing,
            'thresholds': thresholds.array(),
        }
        return RawSegmentation(*self._head.run(graph_files.HEAD_OUTPUTS, inputs))

    def embed_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return CLIP's embeddings `(C, D)`, float32 unit rows, of `(C, h, w, 3)` uint8 rgb of size `crop_size_hw`."""
        return np.concatenate(self._embed_in_batches(crops, self.batch))

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        return self._text.encode(sentences)

    def close(self) -> None:
        """Free the sessions."""
        self._text.close()
        del self._generator, self._clip, self._head

    def _embed_in_batches(self, crops: NDArray[np.uint8], batch: int) -> list[NDArray[np.float32]]:
        return [
            self._clip.run(crop_files.CLIP_IMAGE_OUTPUTS, {'crops': crops[start : start + batch]})[0]
            for start in range(0, len(crops), batch)
        ]

    def _fastest_batch(self, num_masks: int) -> int:
        """Return the batch size with the least time for a crop; its best of `_ROUNDS` counts, as noise only adds."""
        sizes = sorted({min(batch, num_masks) for batch in (*BATCHES, num_masks)})
        crops = np.random.default_rng(0).integers(0, 256, (num_masks, *self.crop_size_hw, 3), np.uint8)
        crop_s = dict.fromkeys(sizes, float('inf'))
        for size in sizes:
            self._embed_in_batches(crops[:size], size)
        # In turn, so that a slow moment hits all of them alike.
        for _ in range(_ROUNDS):
            for size in sizes:
                count = min(num_masks, max(size, BATCHES[-1]) // size * size)
                start_s = time.perf_counter()
                self._embed_in_batches(crops[:count], size)
                crop_s[size] = min(crop_s[size], (time.perf_counter() - start_s) / count)
        best = min(crop_s, key=crop_s.__getitem__)
        _LOG.info(
            'crops in batches of %d; ms for a crop: %s',
            best, ', '.join(f'{size}: {1000 * seconds:.1f}' for size, seconds in crop_s.items()),
        )  # fmt: skip
        return best


def open_crop_pipeline(
    manifest: ModelManifest,
    threads: int | None = None,
    *,
    batch: int | None = None,
    crop_size: int | None = None,
    folder: Path | None = None,
) -> CropPipeline:
    """Open the pipeline of a model; its crop graphs are exported first where they are not there yet.

    Args:
        manifest: The model; its own graphs must have been exported.
        threads: See `CropPipeline`.
        batch: See `CropPipeline`.
        crop_size: Edge of the crops in pixels; None is the size that the classifier has in the manifest.
        folder: The model's exported graphs; None is where they lie in the cache.

    Raises:
        GraphsError: The model's own graphs are missing, or graphs are damaged.
        WeightsError: Weights to export are missing or do not fit.
        BackendUnavailableError: There is something to export, and no PyTorch.
    """
    folder = graph_files.graphs_folder(manifest) if folder is None else folder
    graph_files.open_graphs(folder, manifest)
    crops = crop_files.crops_folder(folder, crop_size)
    try:
        crop_files.open_crop_graphs(crops, manifest)
    except GraphsError as error:
        if importlib.util.find_spec('torch') is None:
            raise BackendUnavailableError(f'{error}; exporting them needs PyTorch: pip install torch') from error
        from fisa_ros.runtime.crop_export import export_crop_graphs

        _LOG.info('%s: exporting', error)
        export_crop_graphs(manifest, crops, crop_size)
    return CropPipeline(manifest, folder, threads, batch, crops=crops)

"""Runs a model over a data set, once for all ways of naming its categories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import sys
import time

from tqdm import tqdm

from fisa_ros.core.errors import DataError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.dataset_scorer import DatasetScorer
from fisa_ros.evaluation.image_truth import ImageTruth
from fisa_ros.evaluation.predictor import Predictor
from fisa_ros.evaluation.void_check import VoidCheck, halves
from fisa_ros.pipeline.segmenter import Segmenter


@dataclass(frozen=True)
class DatasetEvaluation:
    """What a run over a data set yields.

    Attributes:
        scorers: By the name of the vocabulary.
        void_check: None unless it was asked for.
        images: Number of images that were scored.
        seconds: Wall time of them, without loading the model and encoding the words.
        is_interrupted: Whether a signal came before its end.
    """

    scorers: Mapping[str, DatasetScorer]
    void_check: VoidCheck | None
    images: int
    seconds: float
    is_interrupted: bool = False


def evaluate_dataset(
    segmenter: Segmenter,
    dataset: PanopticDataset,
    categories: CategoryMap,
    vocabularies: Mapping[str, Vocabulary],
    thresholds: Thresholds,
    *,
    oracle: str | None = None,
    removed_words_of: Vocabulary | None = None,
    limit: int | None = None,
    title: str | None = None,
    received: Sequence[int] = (),
) -> DatasetEvaluation:
    """Score a model on every image, or on the first `limit`; shows its progress and the time left on stderr.

    Args:
        segmenter: The model.
        dataset: Images with truth.
        categories: Which of its categories count.
        vocabularies: Ways of naming them, each with a name.
        thresholds: What a segment must reach.
        oracle: See `Predictor`.
        removed_words_of: Vocabulary to segment also by one half and by the other half of its classes.
        limit: At most so many images.
        title: Text before the progress.
        received: Signals, see `noted_signals`. Once there is one, it ends after the image at hand, or before the first.

    Raises:
        DataError: There are no images, or one cannot be read or contradicts the annotations.
        BackendUnavailableError: The back-end cannot do what the oracle needs.
    """
    count = count_images(dataset, limit)
    predictor = Predictor(segmenter, categories, thresholds, oracle, has_instances=dataset.has_instances)
    parts = halves(removed_words_of) if removed_words_of else ()
    void_check = VoidCheck(categories) if removed_words_of else None
    states = [segmenter.prepare(vocabulary) for vocabulary in (*vocabularies.values(), *parts)]
    scorers = {
        name: DatasetScorer(categories, vocabulary, has_instances=dataset.has_instances)
        for name, vocabulary in vocabularies.items()
    }
    images = 0
    start_s = time.perf_counter()
    for index in tqdm(range(count), desc=title, unit='image', file=sys.stderr, disable=None):
        if received:
            break
        truth = ImageTruth.read(dataset, index, categories)
        predictions = predictor.predict(dataset.image(index), truth, states)
        for scorer, prediction in zip(scorers.values(), predictions, strict=False):
            scorer.add(prediction, truth)
        if void_check is not None:
            for part, prediction in zip(parts, predictions[len(scorers) :], strict=True):
                void_check.add(prediction.result, truth, part.class_ids)
        images += 1
    return DatasetEvaluation(scorers, void_check, images, time.perf_counter() - start_s, bool(received))


def count_images(dataset: PanopticDataset, limit: int | None) -> int:
    """Return how many images to use.

    Raises:
        DataError: The data set has none, or `limit` is below 1.
    """
    if not len(dataset):
        raise DataError(f'{dataset.path} has no images')
    if limit is None:
        return len(dataset)
    if limit < 1:
        raise DataError(f'--limit must be at least 1, got {limit}')
    return min(limit, len(dataset))

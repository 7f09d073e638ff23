"""The CLIP inside a segmenter that detectron2 saved, as FC-CLIP, MAFT+ and their descendants are."""

from collections import Counter
import logging
from pathlib import Path

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.checkpoints.clip import ClipTensors, split_clip
from fisa_ros.networks.checkpoints.read import read_checkpoint

_LOG = logging.getLogger('fisa_ros.networks')

_CLIP = 'backbone.clip_model.'
_PARALLEL = 'module.'


def detectron2_clip_tensors(path: Path, model: str) -> ClipTensors:
    """Read the CLIP of a segmenter and leave all else out.

    What is left out, and logged: the segmenter's own generator (`sem_seg_head`), its loss (`criterion`), copies of CLIP
    that only training looks at (`backbone_t`, `frozen_backbone`), `cdt`, by which MAFT+ changes words for each image,
    and `void_embedding`, which was learnt for the generator's features and not for CLIP's.

    Args:
        path: The file or the folder with it.
        model: Name of the model in open_clip.

    Raises:
        WeightsError: It cannot be read or holds no CLIP.
    """
    tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in read_checkpoint(path).items()}
    clip = {name.removeprefix(_CLIP): tensor for name, tensor in tensors.items() if name.startswith(_CLIP)}
    others = Counter(name.partition('.')[0] for name in tensors if not name.startswith(_CLIP))
    counts = ', '.join(f'{count} of {part}' for part, count in others.most_common())
    if not clip:
        raise WeightsError(f'weights {path} hold no {_CLIP}*, the CLIP of a segmenter; there are {counts}')
    _LOG.info('%s: %d tensors of %s are taken; left out are %s', path, len(clip), model, counts or 'none')
    return split_clip(path, clip)

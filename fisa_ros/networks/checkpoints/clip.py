"""CLIP as open_clip saves it, whole: image tower, text tower and the scale of its logits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import logging
import math
from pathlib import Path
import shlex
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, resize_pos_embed
from torch import Tensor

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.checkpoints.read import read_checkpoint
from fisa_ros.networks.checkpoints.settings import read_json, require_same
from fisa_ros.networks.image_tower import FisaImageTower
from fisa_ros.networks.mask_coverage import CLIP_MEAN, CLIP_STD
from fisa_ros.networks.pooled_tower import PooledImageTower

_LOG = logging.getLogger('fisa_ros.networks')

_VISUAL = 'visual.'
_TEXT = 'text.'
_SCALE = 'logit_scale'
_POSITIONS = 'positional_embedding'
# Wrappers of distributed training and of torch.compile.
_PARALLEL = 'module.'
_COMPILED = '_orig_mod.'
# Constants that some versions kept with the weights.
_LEFT_OUT = ('attn_mask', 'text.attn_mask', 'input_resolution', 'context_length', 'vocab_size')
# Names of the same model in the transformers library.
_OF_TRANSFORMERS = ('vision_model.', 'text_model.')
# What a manifest may set otherwise, and what only training or another tokeniser would use.
_FREE_FIELDS = (
    'image_size', 'patch_dropout', 'output_tokens', 'timm_model_pretrained', 'timm_drop', 'timm_drop_path',
    'hf_tokenizer_name', 'tokenizer_mode', 'tokenizer_kwargs', 'hf_model_pretrained',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClipTensors:
    """The weights of a CLIP.

    Attributes:
        visual: Those of the image tower, under its own names.
        text: Those of the text tower, under its own names.
        logit_scale: Log of the factor on cosine similarities, a scalar.
    """

    visual: Mapping[str, Tensor]
    text: Mapping[str, Tensor]
    logit_scale: Tensor


def open_clip_tensors(path: Path, model: str) -> ClipTensors:
    """Read a checkpoint of open_clip.

    Args:
        path: The file or the folder with it; an `open_clip_config.json` beside it must describe the same model.
        model: Name of the model, one of `open_clip.list_models()`.

    Raises:
        WeightsError: It cannot be read, is of another model, or is no CLIP.
    """
    document = read_json(path, 'open_clip_config.json')
    if document is not None:
        require_same(path, _config_differences(document, model))
    return split_clip(path, read_checkpoint(path))


def split_clip(path: Path, tensors: Mapping[str, Tensor]) -> ClipTensors:
    """Sort the tensors of a CLIP by their tower.

    Args:
        path: Where they are from.
        tensors: Under the names of open_clip: the text tower's with the prefix `text.` or without, all with the prefix
            `module.` or without.

    Raises:
        WeightsError: They are of no CLIP of open_clip.
    """
    named = {name.replace(_COMPILED, ''): tensor for name, tensor in tensors.items()}
    if all(name.startswith(_PARALLEL) for name in named):
        named = {name.removeprefix(_PARALLEL): tensor for name, tensor in named.items()}
    if any(name.startswith(_OF_TRANSFORMERS) for name in named):
        raise WeightsError(
            f'weights {path} are a CLIP under the names of transformers: use the file of open_clip, which lies beside '
            'it as open_clip_model.safetensors or open_clip_pytorch_model.bin'
        )
    scale = named.pop(_SCALE, None)
    if scale is None or scale.numel() != 1 or not scale.isfinite():
        raise WeightsError(f'weights {path} are no CLIP of open_clip: {_SCALE} is missing or no finite number')
    visual = {name.removeprefix(_VISUAL): tensor for name, tensor in named.items() if name.startswith(_VISUAL)}
    text = {
        name.removeprefix(_TEXT): tensor
        for name, tensor in named.items()
        if not name.startswith(_VISUAL) and name not in _LEFT_OUT
    }
    return ClipTensors(visual, text, scale.reshape(()))


def at_size_of(tower: FisaImageTower | PooledImageTower, visual: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors of an image tower with position embeddings for the size at which `tower` takes images.

    As open_clip does it: the square grid is scaled, bicubic and antialiased, in float32; the class token's stays.

    Args:
        tower: The tower they are for; one without position embeddings takes them as they are.
        visual: Tensors of its `visual`.
        path: Where they are from.
    """
    state = {f'{_VISUAL}{name}': tensor for name, tensor in visual.items()}
    positions = visual.get(_POSITIONS)
    if positions is not None and positions.ndim == 2 and isinstance(tower, FisaImageTower):
        rows, columns = tower.visual.grid_size
        edge = math.isqrt(max(len(positions) - 1, 0))
        # Anything else is named as misshapen later.
        if edge * edge == len(positions) - 1 and (edge, edge) != (rows, columns):
            resize_pos_embed(state, tower)
            _LOG.info(
                'position embeddings of %s are scaled from %d x %d to %d x %d patches', path, edge, edge, rows, columns
            )
    return {name.removeprefix(_VISUAL): tensor for name, tensor in state.items()}


def download_open_clip(model: str, tag: str) -> Path:
    """Return the file of weights that open_clip has for a model under a tag, downloading it where it is not cached.

    Raises:
        WeightsError: There is no such tag, its network is another one, or the download failed; the text says what to
            run.
    """
    # Of some models the variant with QuickGELU has no list of its own.
    plain = model.removesuffix('-quickgelu')
    config = open_clip.get_pretrained_cfg(model, tag) or open_clip.get_pretrained_cfg(plain, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(model) or open_clip.list_pretrained_tags_by_model(plain)
        known = ', '.join(tags) or 'none'
        raise WeightsError(f'open_clip has no weights {tag!r} of {model}, known are {known}')
    found = {key: config[key] for key in ('mean', 'std') if key in config} | {
        'quick_gelu': bool(config.get('quick_gelu', False))
    }
    wanted = {'mean': CLIP_MEAN, 'std': CLIP_STD, 'quick_gelu': bool(_model_config(model).get('quick_gelu', False))}
    require_same(Path(f'{model} {tag}'), _differences(found, wanted))
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:
        # The libraries below raise whatever their network layer raises.
        named = model if open_clip.is_pretrained_cfg(model, tag) else plain
        code = (
            f'import open_clip; print(open_clip.download_pretrained(open_clip.get_pretrained_cfg({named!r}, {tag!r})))'
        )
        raise WeightsError(
            f'weights {tag!r} of {model} are not here and could not be downloaded ({error}). On a machine with a '
            f'network, run: python -c {shlex.quote(code)}; and copy the file that it names'
        ) from error


def _model_config(model: str) -> dict[str, Any]:
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        raise WeightsError(f'open_clip has no model {model!r}; open_clip.list_models() names them')
    return config


def _config_differences(document: Mapping[str, Any], model: str) -> list[str]:
    """Compare an `open_clip_config.json` with what open_clip knows of the model, defaults filled in."""
    try:
        there = _flat(document['model_cfg'])
        preprocessing = document.get('preprocess_cfg', {})
        there |= {key: tuple(preprocessing[key]) for key in ('mean', 'std') if key in preprocessing}
    except (LookupError, TypeError, AttributeError) as error:
        return [f'open_clip_config.json cannot be understood ({error!r})']
    here = _flat(_model_config(model)) | {'mean': CLIP_MEAN, 'std': CLIP_STD}
    return _differences(there, here)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    vision = asdict(CLIPVisionCfg(**config['vision_cfg']))
    text = asdict(CLIPTextCfg(**config['text_cfg']))
    return {
        'embed_dim': config['embed_dim'],
        'quick_gelu': bool(config.get('quick_gelu', False)),
        **{f'vision_cfg.{key}': value for key, value in vision.items() if key not in _FREE_FIELDS},
        **{f'text_cfg.{key}': value for key, value in text.items() if key not in _FREE_FIELDS},
    }


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f'{key} is {value}, the model of the manifest has {here[key]}'
        for key, value in there.items()
        if value != here[key]
    ]

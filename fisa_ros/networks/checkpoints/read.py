"""Reading a checkpoint of any container into tensors on the CPU, without running what is in it."""

from collections.abc import Mapping
import json
from pathlib import Path
from pickle import UnpicklingError
import re
from typing import Any
import zipfile

from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor

from fisa_ros.core.errors import WeightsError

_PICKLES = ('.bin', '.pth', '.pt', '.ckpt')
_INDEX = '.index.json'
_FORMS = f'.safetensors{_INDEX}, .safetensors, .bin{_INDEX}, {", ".join(_PICKLES)}'
# Under which training tools keep the weights, beside the step, the optimiser and so on.
_WRAPPERS = ('state_dict', 'model')
_GIT_LFS = b'version https://git-lfs'
_WEB_PAGE = (b'<!doctype', b'<html')
_PICKLE = b'\x80'
# Begins what torch wrote before it wrote archives.
_TORCH_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_HEAD_BYTES = 64
_SHOWN = 5
_UNPICKLER = re.compile(r'WeightsUnpickler error: (.*)')
_GLOBAL = re.compile(r'(?:GLOBAL|class) ([\w.]+)')


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint; floating point becomes float32, which halves and bfloat16 fit exactly.

    Args:
        path: A file, or a folder with one file of weights or an index of its shards. Pickles of torch may hold the
            weights directly or under `state_dict` or `model`. Their tensors may map the file: it must stay while they
            are in use.

    Raises:
        WeightsError: It is missing, empty, truncated, corrupt or no checkpoint, it is a TorchScript archive, or it
            holds anything but tensors and plain values, which could run code; the text names the file and the reason.
    """
    file = _main_file(path) if path.is_dir() else path
    tensors = _read_shards(file) if file.name.endswith(_INDEX) else _read_file(file)
    if not tensors:
        raise WeightsError(f'weights {file} hold no tensors')
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _main_file(folder: Path) -> Path:
    """Return the one file to start from; safetensors go before pickles and an index before shards."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickled = [name for name in names if name.endswith(_PICKLES)]
    for candidates in (
        [name for name in names if name.endswith(f'.safetensors{_INDEX}')],
        [name for name in names if name.endswith('.safetensors')],
        [name for name in names if name.endswith(f'.bin{_INDEX}')],
        pickled,
    ):
        if len(candidates) > 1:
            raise WeightsError(f'{folder} holds several weights, name one of them: {", ".join(candidates)}')
        if candidates:
            return folder / candidates[0]
    raise WeightsError(f'{folder} holds no weights, which would be one of {_FORMS}')


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        weight_map = json.loads(index.read_text(encoding='utf-8'))['weight_map']
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f'index {index} cannot be read: {error!r}') from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise WeightsError(f'index {index} names {shard!r}, which is no file beside it')
    found: dict[str, Tensor] = {}
    for shard in shards:
        tensors = _read_file(index.with_name(shard))
        listed = {name for name, place in weight_map.items() if place == shard}
        if differing := sorted(listed ^ set(tensors)):
            shown = ', '.join(differing[:_SHOWN])
            raise WeightsError(f'index {index} and {shard} differ in {len(differing)} tensors, such as {shown}')
        found |= tensors
    return found


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with path.open('rb') as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise WeightsError(f'weights {path} cannot be read: {error}') from error
    if not head:
        raise WeightsError(f'weights {path} cannot be read: the file is empty')
    if head.startswith(_GIT_LFS):
        raise WeightsError(f'weights {path} are a pointer of Git LFS, not the file itself: run git lfs pull')
    if head.lstrip().lower().startswith(_WEB_PAGE):
        raise WeightsError(f'weights {path} are a web page, not the file itself: its download failed')
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    if path.suffix in _PICKLES:
        return _read_pickle(path, head)
    raise WeightsError(f'weights {path} are of no known form, which would be one of {_FORMS}')


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, 'pt') as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f'weights {path} cannot be read: {error}') from error


def _read_pickle(path: Path, head: bytes) -> dict[str, Tensor]:
    is_zip = zipfile.is_zipfile(path)
    if head.startswith(_PICKLE) and not head.startswith(_TORCH_MAGIC):
        raise _refused(path, 'they are a plain pickle that torch did not write')
    try:
        if is_zip:
            _check_archive(path)
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        if names := _classes(path, str(error)):
            raise _refused(path, f'they hold {", ".join(names)}, which are no tensors') from error
        raise WeightsError(f'weights {path} cannot be read: {_reason(error)}') from error
    except (OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(f'weights {path} cannot be read: {_reason(error)}') from error
    return _tensors_of(path, content)


def _refused(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f'weights {path} are refused, as loading them could run code: {reason}. If you trust their author, load them '
        'in a sandbox with torch.load(weights_only=False) or pickle and write the tensors alone with '
        'safetensors.torch.save_file'
    )


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith('/constants.pkl') for name in archive.namelist()):
            raise WeightsError(
                f'weights {path} are a TorchScript archive, which holds code: use the safetensors that open_clip '
                'publishes of the same model, open_clip_model.safetensors on the Hugging Face Hub'
            )
        # torch does not look at the sums that it writes.
        if (damaged := archive.testzip()) is not None:
            raise WeightsError(f'weights {path} cannot be read: {damaged} in it is corrupt')


def _classes(path: Path, text: str) -> list[str]:
    """Return what torch refused to make: all of it where that can be told, or else the first."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))[:_SHOWN]
    except (OSError, ValueError, RuntimeError, LookupError):
        return _GLOBAL.findall(text)[:1]


def _reason(error: BaseException) -> str:
    """Return what went wrong in one line, without what torch says around it."""
    text = str(error)
    found = _UNPICKLER.search(text)
    lines = [found[1]] if found else text.splitlines()
    return next((line.strip() for line in lines if line.strip()), repr(error))


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        raise WeightsError(f'weights {path} hold a {type(content).__name__} and no mapping of names to tensors')
    for name, value in content.items():
        if not isinstance(name, str):
            raise WeightsError(f'weights {path} hold something under {name!r}, which is no name')
        if (kind := _odd_kind(value)) is not None:
            raise WeightsError(f'weights {path} hold a {kind} under {name!r}, where a plain tensor belongs')
    return dict(content)


def _odd_kind(value: Any) -> str | None:
    """Return what a value is if it is no plain tensor with numbers in it."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_meta:
        return 'tensor without numbers'
    if value.is_quantized:
        return 'quantised tensor'
    if value.is_nested:
        return 'nested tensor'
    return None if value.layout is torch.strided else 'sparse tensor'

"""Checkpoints of every container are read, and nothing in them is run."""

import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from safetensors.torch import save_file
import torch
from torch import nn

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.checkpoints.read import read_checkpoint


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        'a.weight': torch.randn(40, 30, generator=generator),
        'a.bias': torch.randn(3, generator=generator),
        'count': torch.tensor(7),
    }


def write(tensors, path, form):
    """Write a checkpoint and return what is to be read: a file, or the folder of an index."""
    if form == 'safetensors':
        save_file(tensors, path / 'model.safetensors')
    elif form == 'direct':
        torch.save(tensors, path / 'model.bin')
    elif form == 'lightning':
        torch.save({'state_dict': tensors, 'epoch': 3, 'lr_schedulers': [{'last_epoch': 3}]}, path / 'model.ckpt')
    elif form == 'detectron2':
        torch.save({'model': tensors, 'iteration': 9, 'scheduler': {'base_lrs': [0.1]}}, path / 'model.pth')
    elif form == 'old':
        torch.save(tensors, path / 'model.pth', _use_new_zipfile_serialization=False)
    else:
        suffix = {'shards': 'safetensors', 'pickled shards': 'bin'}[form]
        save = {'safetensors': save_file, 'bin': torch.save}[suffix]
        names = sorted(tensors)
        weight_map = {}
        for number, part in enumerate((names[:1], names[1:]), 1):
            shard = f'model-{number:05}-of-00002.{suffix}'
            save({name: tensors[name] for name in part}, path / shard)
            weight_map |= dict.fromkeys(part, shard)
        index = {'metadata': {'total_size': 1}, 'weight_map': weight_map}
        (path / f'model.{suffix}.index.json').write_text(json.dumps(index))
        return path
    return next(path.iterdir())


FORMS = ['safetensors', 'direct', 'lightning', 'detectron2', 'old', 'shards', 'pickled shards']
FILES = FORMS[:5]


@pytest.mark.parametrize('form', FORMS)
def test_every_container_gives_the_same_tensors(tensors, tmp_path, form):
    path = write(tensors, tmp_path, form)
    for given in (path, tmp_path):
        found = read_checkpoint(given)
        assert set(found) == set(tensors)
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())


@pytest.mark.parametrize('form', ['safetensors', 'direct'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_become_float32_exactly(tensors, tmp_path, form, dtype):
    halves = {name: tensor.to(dtype) for name, tensor in tensors.items() if tensor.is_floating_point()}
    found = read_checkpoint(write(halves, tmp_path, form))
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    assert all(torch.equal(found[name], halves[name].double().float()) for name in halves)


class Evil:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (str(self.flag),)


def write_evil(content, path, form):
    if form == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == 'zip')


@pytest.mark.parametrize('form', ['zip', 'old', 'pickle'])
def test_code_in_a_checkpoint_is_refused_and_not_run(tensors, tmp_path, form):
    path, flag = tmp_path / 'evil.pth', tmp_path / 'was_run'
    content = {'model': tensors, 'optimizer': Evil(flag)}
    write_evil(content, path, form)
    reason = 'they are a plain pickle' if form == 'pickle' else r'they hold posix\.mkdir, which are no tensors'
    with pytest.raises(WeightsError, match=rf'evil\.pth are refused, as loading them could run code: {reason}'):
        read_checkpoint(path)
    assert not flag.exists()
    # What was refused is a working trap.
    with path.open('rb') as file:
        torch.load(file, weights_only=False) if form != 'pickle' else pickle.load(file)
    assert flag.is_dir()


@pytest.mark.parametrize('form', ['zip', 'old'])
def test_numpy_arrays_in_a_checkpoint_are_refused_by_name(tmp_path, form):
    path = tmp_path / 'model.pth'
    write_evil({'model': {'a': np.zeros(3, np.float32)}}, path, form)
    with pytest.raises(WeightsError, match=r'refused.*numpy.*no tensors.*sandbox.*safetensors') as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_classes_beside_the_weights_are_all_named(tensors, tmp_path):
    path = tmp_path / 'model.ckpt'
    torch.save({'state_dict': tensors, 'hyper_parameters': {'net': nn.Linear(2, 2), 'x': np.float64(3)}}, path)
    with pytest.raises(WeightsError, match=r'refused.*numpy.*torch\.nn\.modules\.linear\.Linear'):
        read_checkpoint(path)


def test_torchscript_is_refused_and_the_alternative_named(tmp_path):
    path = tmp_path / 'ViT-L-14-336px.pt'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(WeightsError, match=r'TorchScript archive, which holds code: .*open_clip_model\.safetensors'):
        read_checkpoint(path)


@pytest.mark.parametrize('form', FILES)
@pytest.mark.parametrize('share', [0.0, 0.05, 0.5, 0.99])
def test_truncated_files_are_named(tensors, tmp_path, form, share):
    path = write(tensors, tmp_path, form)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=rf'{path.name} cannot be read: \S') as caught:
        read_checkpoint(path)
    assert 'could run code' not in str(caught.value)


def test_a_flipped_bit_in_a_zip_is_found(tensors, tmp_path):
    path = write(tensors, tmp_path, 'direct')
    with zipfile.ZipFile(path) as archive:
        large = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[large.header_offset + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r'model\.bin cannot be read: \S+ in it is corrupt'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ('name', 'content', 'text'),
    [
        ('m.safetensors', None, r'm\.safetensors cannot be read: .*No such file'),
        ('m.pth', None, r'm\.pth cannot be read: .*No such file'),
        ('m.pth', b'', r'm\.pth cannot be read: the file is empty'),
        ('m.bin', b'garbage, and no checkpoint' * 9, r'm\.bin cannot be read: \S'),
        ('m.safetensors', b'garbage, and no checkpoint' * 9, r'm\.safetensors cannot be read: \S'),
        ('m.safetensors', b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'pointer of Git LFS'),
        ('m.pth', b'<!DOCTYPE html><html>Google Drive - Virus scan warning', 'web page, .* download failed'),
        ('m.npz', b'PK\x03\x04', r'm\.npz are of no known form, which would be one of \.safetensors\.index\.json'),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, name, content, text):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=text):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        ({}, 'hold no tensors'),
        ({'model': {}, 'iteration': 1}, 'hold no tensors'),
        ([1, 2], 'hold a list and no mapping'),
        ({'a': {'b': torch.zeros(1)}}, "hold a dict under 'a', where a plain tensor belongs"),
        ({'state_dict': {'a': 'x'}}, "hold a str under 'a'"),
        ({'a': torch.eye(2).to_sparse()}, "hold a sparse tensor under 'a'"),
        ({'a': torch.empty(2, device='meta')}, "hold a tensor without numbers under 'a'"),
        (lambda: {'a': torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, 'hold a quantised tensor'),
        (lambda: {'a': torch.eye(2).to_sparse_csr()}, "hold a sparse tensor under 'a'"),
        ({3: torch.zeros(1)}, 'hold something under 3, which is no name'),
    ],
)
@pytest.mark.filterwarnings('ignore:Validating sparse tensor invariants', 'ignore:Sparse CSR tensor support')
@pytest.mark.filterwarnings('ignore:.*quantized', 'ignore:TypedStorage is deprecated')
def test_what_holds_no_weights_is_named(tmp_path, content, text):
    path = tmp_path / 'model.pth'
    torch.save(content() if callable(content) else content, path)
    with pytest.raises(WeightsError, match=text):
        read_checkpoint(path)


def test_a_folder_must_say_which_file_it_means(tensors, tmp_path):
    with pytest.raises(WeightsError, match=f'{tmp_path.name} holds no weights, which would be one of '):
        read_checkpoint(tmp_path)
    save_file(tensors, tmp_path / 'a.safetensors')
    torch.save({'other': torch.zeros(1)}, tmp_path / 'b.bin')
    assert set(read_checkpoint(tmp_path)) == set(tensors), 'safetensors go before pickles'
    save_file(tensors, tmp_path / 'c.safetensors')
    with pytest.raises(WeightsError, match=r'several weights, name one of them: a\.safetensors, c\.safetensors'):
        read_checkpoint(tmp_path)


def change_index(path, change):
    index = path / 'model.safetensors.index.json'
    document = json.loads(index.read_text())
    index.write_text(change(document) or json.dumps(document))


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda document: 'no json', r'index .*index\.json cannot be read'),
        (lambda document: '[]', r'index .*index\.json cannot be read'),
        (lambda document: document.pop('weight_map') and None, r"cannot be read: KeyError\('weight_map'\)"),
        (lambda document: document['weight_map'].update(b='../up.safetensors'), r"'\.\./up.safetensors', which is no"),
        (lambda document: document['weight_map'].update(b='c.safetensors'), r'c\.safetensors cannot be read'),
        (
            lambda document: document['weight_map'].update(b='model-00001-of-00002.safetensors'),
            'differ in 1 tensors, such as b',
        ),
        (lambda document: document['weight_map'].pop('count') and None, 'differ in 1 tensors, such as count'),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_named(tensors, tmp_path, change, text):
    write(tensors, tmp_path, 'shards')
    change_index(tmp_path, change)
    with pytest.raises(WeightsError, match=text):
        read_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tensors, tmp_path):
    write(tensors, tmp_path, 'shards')
    (tmp_path / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(WeightsError, match=r'model-00002-of-00002\.safetensors cannot be read'):
        read_checkpoint(tmp_path)

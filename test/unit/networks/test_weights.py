import pytest
from safetensors.torch import load_file, save_file
import torch
from torch import nn

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.networks.weights import load_text_weights, load_weights, save_weights


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def test_what_is_saved_is_loaded_with_matrices_in_half_precision(module, tmp_path):
    path = tmp_path / 'deep' / 'w.safetensors'
    save_weights(module, path)
    assert path.stat().st_mode & 0o777 == 0o644, 'who runs the node need not be who wrote them'
    assert load_file(path)['0.weight'].dtype == torch.float16
    assert load_file(path)['0.bias'].dtype == torch.float32
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    load_weights(other, path)
    torch.testing.assert_close(other[0].weight, module[0].weight, atol=1e-3, rtol=1e-3)
    assert torch.equal(other[0].bias, module[0].bias)
    assert other[0].weight.dtype == torch.float32


def test_an_interrupted_write_leaves_the_old_weights(module, tmp_path, monkeypatch):
    path = tmp_path / 'w.safetensors'
    save_weights(module, path)
    before = path.read_bytes()

    def half_written(tensors, where):
        where.write_bytes(before[:20])
        raise OSError('disk full')

    monkeypatch.setattr('fisa_ros.networks.weights.save_file', half_written)
    with pytest.raises(WeightsError, match=r'w\.safetensors cannot be written: disk full'):
        save_weights(module, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def drop(tensors):
    del tensors['0.bias']


def add(tensors):
    tensors['2.weight'] = torch.zeros(1)


def reshape(tensors):
    tensors['0.weight'] = torch.zeros(5, 4)


def poison(tensors):
    tensors['0.bias'][1] = float('nan')


def count(tensors):
    tensors['0.weight'] = tensors['0.weight'].to(torch.int8)


def turn(tensors):
    tensors['0.bias'] = tensors['0.bias'].to(torch.complex64)


def measure(tensors):
    tensors['1.num_batches_tracked'] = tensors['1.num_batches_tracked'].float()


def overflow(tensors):
    tensors['0.bias'] = tensors['0.bias'].double() + 1e300


@pytest.mark.parametrize(
    ('harm', 'text'),
    [
        (drop, r'missing: 0\.bias'),
        (add, r'surplus: 2\.weight'),
        (reshape, r'misshapen: 0\.weight \(5, 4\) instead of \(3, 4\)'),
        (poison, r'not finite: 0\.bias'),
        (overflow, r'not finite: 0\.bias'),
        (count, r'of another kind: 0\.weight int8 instead of float32'),
        (turn, r'of another kind: 0\.bias complex64 instead of float32'),
        (measure, r'of another kind: 1\.num_batches_tracked float32 instead of int64'),
    ],
)
def test_weights_that_do_not_fit_change_nothing(module, tmp_path, harm, text):
    path = tmp_path / 'w.safetensors'
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    harm(tensors)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=text):
        load_weights(module, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_many_that_do_not_fit_are_counted_by_their_place(tmp_path):
    deep = nn.ModuleDict({'a': nn.Sequential(*[nn.Linear(2, 2)] * 2), 'b': nn.ModuleDict({'c': nn.Linear(2, 2)})})
    path = tmp_path / 'w.safetensors'
    save_file({'x': torch.zeros(1)}, path)
    shown = r'a\.0\.bias, a\.0\.weight, a\.1\.bias, a\.1\.weight, b\.c\.bias'
    with pytest.raises(WeightsError, match=rf'missing: {shown} and 1 more \(of all, 2 in a\.0, 2 in a\.1, 2 in b\.c\)'):
        load_weights(deep, path)


@pytest.mark.parametrize('content', [None, b'', b'not tensors at all', 'truncated'])
def test_missing_or_corrupt_files_are_named(module, tmp_path, content):
    path = tmp_path / 'w.safetensors'
    if content == 'truncated':
        save_weights(module, path)
        path.write_bytes(path.read_bytes()[:-10])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r'w\.safetensors cannot be read'):
        load_weights(module, path)


def text_encoder(has_own_weights):
    encoder = TextEncoder()
    encoder.model = nn.Linear(4, 2)
    encoder.has_own_weights = has_own_weights
    return encoder


def test_a_text_encoder_lies_in_the_same_file(module, tmp_path):
    path = tmp_path / 'w.safetensors'
    saved, loaded = text_encoder(False), text_encoder(False)
    save_weights(module, path, saved)
    names = {'text_encoder.model.weight', 'text_encoder.model.bias'}
    assert set(load_file(path)) == set(module.state_dict()) | names
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    load_weights(other, path)
    load_text_weights(loaded, path)
    assert torch.equal(other[0].bias, module[0].bias)
    assert torch.equal(loaded.model.bias, saved.model.bias)
    torch.testing.assert_close(loaded.model.weight, saved.model.weight, atol=1e-3, rtol=1e-3)


def test_a_text_encoder_that_brings_its_weights_has_none_in_the_file(module, tmp_path):
    path = tmp_path / 'w.safetensors'
    own = text_encoder(True)
    before = own.model.weight.clone()
    save_weights(module, path, own)
    assert set(load_file(path)) == set(module.state_dict())
    load_text_weights(own, path)
    assert torch.equal(own.model.weight, before)
    with pytest.raises(WeightsError, match=r'do not fit the text encoder: missing: text_encoder\.model\.bias, text_'):
        load_text_weights(text_encoder(False), path)
    save_weights(module, path, text_encoder(False))
    with pytest.raises(WeightsError, match=r'do not fit the text encoder: surplus: text_encoder\.model\.bias'):
        load_text_weights(own, path)

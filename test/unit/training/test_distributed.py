"""Two processes on the CPU train what one does. This file is also what the two processes run."""

import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn
import torch.nn.functional as F

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.training.batches import training_batches
from fisa_ros.training.loop import TrainingStoppedError, load_trained, train
from fisa_ros.training.settings import Phase, RunSettings
from fisa_ros.training.terms import Term

TOLERANCE = 1e-5
PHASES = [Phase(32, 4, 12, 1e-2), Phase(48, 4, 6, 5e-3)]
CATEGORIES = [3, 7, 9]


class MaskNamer(nn.Module):
    """Names masks by the mean of features under them; balls have a head of their own."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv2d(8, 16, 3, 1, 1), nn.GELU()
        )
        self.names = nn.Linear(16, len(CATEGORIES))
        self.ball_size = nn.Linear(16, 1)
        self.unused = nn.Linear(4, 4)

    def terms(self, batch):
        features = self.features(batch.images)
        pooled, truth, area = [], [], []
        for image, masks, categories, index in zip(features, batch.masks, batch.categories, batch.indices, strict=True):
            # Every other image counts fully, so that processes differ in their numbers of items.
            kept = slice(None) if index % 2 else slice(1)
            pooled.append(torch.einsum('chw,thw->tc', image, masks[kept]) / masks[kept].sum((1, 2))[:, None])
            truth.append(torch.tensor([CATEGORIES.index(entry) for entry in categories[kept].tolist()]))
            area.append(masks[kept].mean((1, 2)))
        rows, target, sizes = torch.cat(pooled), torch.cat(truth), torch.cat(area)
        balls = target == 2
        terms = {'names': Term(F.cross_entropy(self.names(rows), target, reduction='sum'), len(target), 1.0)}
        wrong = self.ball_size(rows[balls])[:, 0] - sizes[balls] if balls.any() else rows.new_zeros(0)
        terms['size'] = Term(wrong.abs().sum(), int(balls.sum()), 0.5)
        terms['accuracy'] = Term((self.names(rows).argmax(1) == target).sum(), len(target), 0.0)
        return terms


def fit(data, folder, act=lambda step, terms: terms, seed=0, accumulate=1):
    # The first process's weights count.
    torch.manual_seed(seed)
    module = MaskNamer()
    dataset = PanopticDataset.open(data / 'train', data / 'annotations' / 'panoptic_train.json')
    counts = []

    def loss(batch, step):
        terms = module.terms(batch)
        counts.append([int(terms[name].count) for name in ('names', 'size')])
        return act(step, terms)

    summary = train(
        module,
        list(module.parameters()),
        PHASES,
        lambda phase, first, part, parts: training_batches(
            dataset, phase.size, phase.batch_size, phase.size, first, part=part, parts=parts
        ),
        loss,
        folder,
        run=RunSettings(threads=1, accumulate=accumulate),
        ema=0.9,
        validate=lambda: {'score': 0.5},
        validate_every=5,
    )
    return module, counts, summary


def process(data, out):
    """What each of the two processes does; its findings go into a file."""
    rank = int(os.environ['RANK'])
    found = {}
    module, found['counts'], summary = fit(data, out / 'straight', seed=rank)
    found['cpu_seconds'] = summary.cpu_seconds
    torch.save(module.state_dict(), out / f'weights_{rank}.pt')

    def stop(step, terms):
        if step == 7 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms

    try:
        fit(data, out / 'stopped', stop)
    except TrainingStoppedError as error:
        found['stopped'] = str(error)
    module, counts, _ = fit(data, out / 'stopped')
    found['resumed_batches'] = len(counts)
    torch.save(module.state_dict(), out / f'resumed_{rank}.pt')

    def spoil(step, terms):
        return {**terms, 'names': Term(terms['names'].total / (step != 3 or rank != 1), 1, 1.0)}

    try:
        fit(data, out / 'spoiled', spoil)
    except DataError as error:
        found['spoiled'] = str(error)
    (out / f'found_{rank}.json').write_text(json.dumps(found))


@pytest.fixture(scope='module')
def two(toy_data, tmp_path_factory):
    out = tmp_path_factory.mktemp('two')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    launcher = ['torch.distributed.run', '--nproc_per_node=2', '--master_addr=127.0.0.1', f'--master_port={port}']
    subprocess.run(
        [sys.executable, '-m', *launcher, __file__, str(toy_data), str(out)],
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'GLOO_SOCKET_IFNAME': 'lo', 'OMP_NUM_THREADS': '1'},
        check=True,
        timeout=120,
    )
    return out, [json.loads((out / f'found_{rank}.json').read_text()) for rank in (0, 1)]


@pytest.fixture(scope='module')
def one(toy_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('one')
    return (folder, *fit(toy_data, folder))


def assert_close(first, second):
    for name, tensor in second.items():
        torch.testing.assert_close(first[name], tensor, atol=TOLERANCE, rtol=0, msg=lambda text, name=name: name + text)


def test_two_processes_give_the_weights_of_one(one, two):
    folder, module, _, summary = one
    out, _ = two
    torch.manual_seed(0)
    start, weights = MaskNamer(), [torch.load(out / f'weights_{rank}.pt') for rank in (0, 1)]
    assert (weights[0]['names.weight'] - start.names.weight).abs().max() > 1000 * TOLERANCE
    assert_close(weights[0], module.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert_close(load_trained(out / 'straight'), load_trained(folder))
    losses = json.loads((out / 'straight' / 'summary.json').read_text())['losses']
    assert losses == pytest.approx(summary.losses, abs=1e-4)


def test_the_processes_share_the_items_unevenly(one, two):
    counts = [found['counts'] for found in two[1]]
    summed = [[mine + other for mine, other in zip(*pair, strict=True)] for pair in zip(*counts, strict=True)]
    assert summed == one[2]
    assert sum(first[0] != second[0] for first, second in zip(*counts, strict=True)) > 5
    assert any(0 in (first[1], second[1]) and first[1] + second[1] for first, second in zip(*counts, strict=True))


def test_what_no_process_uses_is_not_even_decayed(one, two):
    torch.manual_seed(0)
    assert torch.equal(torch.load(two[0] / 'weights_0.pt')['unused.weight'], MaskNamer().unused.weight)


def test_only_the_first_process_writes(two):
    lines = [json.loads(line) for line in (two[0] / 'straight' / 'log.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [5, 10, 12, 15, 18]
    assert len(list((two[0] / 'straight' / 'tensorboard').iterdir())) == 1


def test_processor_time_of_both_counts(two):
    first, second = (found['cpu_seconds'] for found in two[1])
    assert first == pytest.approx(second, rel=0.5)
    assert first > 0


def test_a_signal_to_one_stops_both_and_they_go_on_to_the_same_weights(two):
    out, found = two
    assert [entry['stopped'] for entry in found] == ['stopped by SIGTERM after step 8 of 18'] * 2
    assert [entry['resumed_batches'] for entry in found] == [10, 10]
    for rank in (0, 1):
        resumed, straight = torch.load(out / f'resumed_{rank}.pt'), torch.load(out / f'weights_{rank}.pt')
        assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_a_loss_that_one_makes_infinite_stops_both(two):
    out, found = two
    assert 'loss is inf at step 3' in found[0]['spoiled']
    assert found[1]['spoiled'] == found[0]['spoiled']
    saved = torch.load(out / 'spoiled' / 'bad_batch_3.pt', weights_only=True)
    assert [part['images'].shape for part in saved['parts']] == [(2, 3, 32, 32)] * 2


if __name__ == '__main__':
    process(Path(sys.argv[1]), Path(sys.argv[2]))

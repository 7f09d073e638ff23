from dataclasses import dataclass
import json
import math
import os
import signal

import pytest
import torch
from torch import Tensor, nn

from fisa_ros.core.errors import DataError
from fisa_ros.training import loop, progress
from fisa_ros.training.loop import TrainingStoppedError, load_trained, train
from fisa_ros.training.progress import Summary
from fisa_ros.training.settings import Phase, RunSettings, learning_rate
from fisa_ros.training.terms import Term

PHASES = [Phase(32, 2, 60, 0.1), Phase(64, 2, 30, 0.1)]
RUN = RunSettings(threads=1)


@dataclass(frozen=True)
class Rows:
    rows: Tensor
    names: list[str]


def batches_of_rows(phase, first, part, parts):
    number = first
    while True:
        generator = torch.Generator().manual_seed(1000 * phase.size + number)
        rows = torch.rand(phase.batch_size, 3, generator=generator).chunk(parts)[part]
        yield Rows(rows, [f'batch {number}'])
        number += 1


def fresh():
    """Dropout makes the weights depend on PyTorch's own random numbers too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))


def square_loss(module):
    def loss(batch, _):
        error = (module(batch.rows) - batch.rows.sum(1, keepdim=True)).square().sum()
        return {'square': Term(error, len(batch.rows), 1.0)}

    return loss


def fit(module, folder, loss=None, phases=PHASES, run=RUN, **settings):
    return train(
        module, list(module.parameters()), phases, batches_of_rows, loss or square_loss(module), folder, run=run,
        **settings,
    )  # fmt: skip


def acting_at(step, module, act):
    """A loss that acts before it is computed at one step."""
    inner = square_loss(module)

    def loss(batch, now):
        if now == step:
            act()
        return inner(batch, now)

    return loss


def assert_same_weights(first, second):
    for mine, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """A run without interruption: its module, folder and summary."""
    folder = tmp_path_factory.mktemp('straight')
    module = fresh()
    return module, folder, fit(module, folder, validate=lambda: {'score': 0.25}, validate_every=25)


def test_training_learns(straight):
    module, _, summary = straight
    batch = next(batches_of_rows(PHASES[0], 999, 0, 1))
    module.eval()
    assert square_loss(module)(batch, 0)['square'].total < 0.1 * square_loss(fresh().eval())(batch, 0)['square'].total
    module.train()
    assert (summary.step, summary.steps, summary.stopped_by) == (90, 90, None)


def test_the_summary_accounts_for_the_time(straight):
    _, folder, summary = straight
    written = json.loads((folder / 'summary.json').read_text())
    assert written['cpu_seconds'] == summary.cpu_seconds > 0
    assert written['gpu_seconds'] == 0 or torch.cuda.is_available()
    assert written['wall_seconds'] == summary.wall_seconds > 0
    assert written['scores'] == {'score': 0.25}
    assert set(written['losses']) == {'total', 'square'}


def test_validation_runs_at_its_steps_and_after_each_phase(straight):
    _, folder, _ = straight
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert [(entry['step'], entry['score']) for entry in log] == [(step, 0.25) for step in (25, 50, 60, 75, 90)]
    assert any('tfevents' in path.name for path in (folder / 'tensorboard').iterdir())


def test_losses_are_logged_with_rate_and_speed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, '_LOG_STEPS', 10)
    module = fresh()
    fit(module, tmp_path, validate=lambda: {'score': 0.5})
    assert capsys.readouterr().out == ''
    lines = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    log = [line for line in lines if 'total' in line]
    assert [entry['step'] for entry in log] == list(range(10, 91, 10))
    assert set(log[0]) == {
        'step',
        'cpu_seconds',
        'total',
        'square',
        'learning_rate',
        'images_per_second',
        'seconds_left',
    }
    assert log[8]['square'] < log[0]['square']
    assert log[8]['learning_rate'] < 0.02 < log[2]['learning_rate']


def test_sigterm_leaves_a_checkpoint_that_goes_on_to_the_same_weights(tmp_path, straight):
    module = fresh()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStoppedError, match='stopped by SIGTERM after step 38 of 90') as stop:
        fit(module, tmp_path, acting_at(37, module, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.loads((tmp_path / 'summary.json').read_text())['stopped_by'] == 'SIGTERM'
    with pytest.raises(DataError, match='is at step 38 of 90'):
        load_trained(tmp_path)
    assert_same_weights(fresh_with(load_trained(tmp_path, allow_unfinished=True)), module)
    resumed = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
    seen = []
    loss = square_loss(resumed)
    summary = fit(resumed, tmp_path, lambda batch, step: seen.append((step, batch.names)) or loss(batch, step))
    assert seen[0] == (38, ['batch 38'])
    assert seen[22] == (60, ['batch 0'])
    assert len(seen) == 52
    assert_same_weights(resumed, straight[0])
    assert summary.cpu_seconds > stop.value.summary.cpu_seconds
    assert summary.losses == straight[2].losses


def fresh_with(state):
    module = fresh()
    module.load_state_dict(state)
    return module


def test_a_finished_training_is_not_repeated(tmp_path):
    module = fresh()
    first = fit(module, tmp_path, phases=[Phase(8, 2, 3, 0.1)])
    again = fresh()
    summary = fit(again, tmp_path, loss=lambda *_: pytest.fail('trained again'), phases=[Phase(8, 2, 3, 0.1)])
    assert summary.step == 3
    saved = torch.load(tmp_path / 'checkpoint.pt')
    assert summary.cpu_seconds > saved['cpu_seconds'] > 0
    assert summary.wall_seconds > saved['wall_seconds'] > 0
    assert summary.losses == first.losses
    assert_same_weights(again, module)
    assert_same_weights(fresh_with(load_trained(tmp_path)), module)


def test_the_time_limit_stops_cleanly_and_can_be_repeated(tmp_path, straight):
    steps = []
    for _ in range(4):
        module = fresh()
        with pytest.raises(TrainingStoppedError, match='time limit') as stop:
            fit(module, tmp_path, run=RunSettings(threads=1, max_seconds=1e-6))
        steps.append(stop.value.summary.step)
    assert steps == [1, 2, 3, 4]
    module = fresh()
    fit(module, tmp_path)
    assert_same_weights(module, straight[0])


def test_checkpoints_are_written_while_time_passes(tmp_path, monkeypatch, straight):
    monkeypatch.setattr(loop, '_CHECKPOINT_SECONDS', 0.0)
    module = fresh()
    with pytest.raises(ZeroDivisionError):
        fit(module, tmp_path, acting_at(17, module, lambda: 1 / 0))
    resumed = fresh()
    first = []
    loss = square_loss(resumed)
    fit(resumed, tmp_path, lambda batch, step: first.append(step) or loss(batch, step))
    assert first[0] == 17
    assert_same_weights(resumed, straight[0])


def test_a_loss_that_is_not_finite_stops_with_step_batch_and_checkpoint(tmp_path, straight):
    module = fresh()
    inner = square_loss(module)

    def broken(batch, step):
        term = inner(batch, step)['square']
        return {'square': term._replace(total=term.total * float('nan'))} if step == 60 else {'square': term}

    message = r'loss is nan at step 60; the batch is in .*/bad_batch_60\.pt, .*/checkpoint\.pt holds the last good one'
    with pytest.raises(DataError, match=message):
        fit(module, tmp_path, broken)
    saved = torch.load(tmp_path / 'bad_batch_60.pt', weights_only=True)
    expected = next(batches_of_rows(PHASES[1], 0, 0, 1))
    assert saved['step'] == 60
    assert torch.equal(saved['parts'][0]['rows'], expected.rows)
    assert saved['parts'][0]['names'] == ['batch 0']
    resumed = fresh()
    fit(resumed, tmp_path)
    assert_same_weights(resumed, straight[0])


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path):
    module = fresh()

    def broken(batch, step):
        total = module(batch.rows).square().sum()
        # The root of 0 is finite, its slope is not.
        return {'root': Term(total + (module[0].bias * 0).sum().sqrt() if step == 2 else total, 1, 1.0)}

    with pytest.raises(
        DataError, match=r'norm of the gradient is nan at step 2; .*bad_batch_2\.pt, there is no checkpoint'
    ):
        fit(module, tmp_path, broken)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert not (tmp_path / 'checkpoint.pt').exists()


def test_terms_are_means_weighted_and_summed(tmp_path):
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    gradients = []
    module.weight.register_hook(lambda gradient: gradients.append(gradient.item()))

    def loss(*_):
        weight = module.weight.sum()
        return {
            'a': Term(6 * weight, 3, 0.5),
            'b': Term(4 * weight, torch.tensor(2), 2.0),
            'none': Term(0 * weight, 0, 1.0),
            'shown': Term(weight * 70, 10, 0.0),
        }

    summary = fit(module, tmp_path, loss, [Phase(8, 2, 1, 0.1)])
    assert gradients == [5.0]
    assert summary.losses == {'total': 5.0, 'a': 2.0, 'b': 2.0, 'none': 0.0, 'shown': 7.0}


def test_a_loss_without_gradient_changes_nothing(tmp_path):
    module = fresh()
    fit(module, tmp_path, lambda *_: {'none': Term(torch.zeros(()), 0, 1.0)}, [Phase(8, 2, 3, 0.1)])
    assert_same_weights(module, fresh())


def uneven_loss(module):
    """Two terms whose counts differ from row to row: how the rows are split must not show."""

    def loss(batch, _):
        wrong = module(batch.rows) - batch.rows.sum(1, keepdim=True)
        large = batch.rows[:, 0] > 0.5
        return {
            'square': Term(wrong.square().sum(), len(batch.rows), 0.01),
            'large': Term(wrong[large].abs().sum(), int(large.sum()), 0.02),
            'shown': Term(large.sum(), len(batch.rows), 0.0),
        }

    return loss


@pytest.mark.parametrize('terms', [('square',), ('square', 'large', 'shown')])
def test_a_step_is_the_same_however_its_batch_is_split(tmp_path, terms):
    modules, summaries = [], []
    for accumulate in (1, 2, 6):
        torch.manual_seed(0)
        module = nn.Linear(3, 1)
        inner, counts = uneven_loss(module), []

        def loss(batch, step, inner=inner, counts=counts):
            counts.append(len(batch.rows))
            return {name: term for name, term in inner(batch, step).items() if name in terms}

        run = RunSettings(threads=1, accumulate=accumulate)
        summaries.append(fit(module, tmp_path / str(accumulate), loss, [Phase(8, 6, 20, 0.1)], run))
        assert counts == [6 // accumulate] * 20 * accumulate
        modules.append(module)
    assert 0 < modules[0].weight.grad.norm() < 1, 'a gradient that is clipped would hide its length'
    for module, summary in zip(modules[1:], summaries[1:], strict=True):
        torch.testing.assert_close(module.weight, modules[0].weight, atol=2e-6, rtol=0)
        torch.testing.assert_close(module.weight.grad, modules[0].weight.grad, atol=1e-6, rtol=1e-5)
        assert summary.losses == pytest.approx(summaries[0].losses, abs=1e-6)


def test_training_goes_on_with_another_split(tmp_path):
    module = fresh()
    phases = [Phase(8, 6, 6, 0.1)]
    with pytest.raises(TrainingStoppedError):
        fit(module, tmp_path, phases=phases, run=RunSettings(threads=1, max_seconds=1e-6, accumulate=3))
    seen = []
    loss = square_loss(module)
    fit(module, tmp_path, lambda batch, step: seen.append((step, *batch.names)) or loss(batch, step), phases)
    assert seen == [(number, f'batch {number}') for number in range(1, 6)]


def test_batches_that_cannot_be_split_are_refused(tmp_path):
    message = 'batch_size of a phase must be divisible by 1 processes x 4 batches of each, got 2'
    with pytest.raises(DataError, match=message):
        fit(fresh(), tmp_path, run=RunSettings(threads=1, accumulate=4))
    assert not (tmp_path / 'checkpoint.pt').exists()


class Overfull(nn.Module):
    """Finds too little memory at one point of a training."""

    def __init__(self, at):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.at = at

    def _check(self, at):
        if self.at == at:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB\nmore')

    def forward(self, rows):
        self._check('step')
        return self.linear(rows)

    def to(self, *_):
        self._check('start')
        return self

    def state_dict(self, **options):
        self._check('checkpoint')
        return super().state_dict(**options)

    def validate(self):
        self._check('validation')
        return {}


@pytest.mark.parametrize(
    ('at', 'when', 'batch_size', 'accumulate', 'advice'),
    [
        ('start', 'before the first step', 8, 2, ''),
        ('checkpoint', 'while saving after step 2', 8, 2, ''),
        ('end', 'at the end', 8, 2, ''),
        ('step', 'at step 0', 8, 2, 'take --accumulate 4, which leaves the result as it is, lower batch_size'),
        # Of 15 images, no two equal parts can be made.
        ('step', 'at step 0', 15, 1, 'take --accumulate 3, which'),
        ('step', 'at step 0', 8, 8, ''),
        ('validation', 'in the validation after step 2', 8, 2, 'take --accumulate 4, which'),
        # It takes 8 images at once, or fewer.
        ('validation', 'in the validation after step 2', 64, 1, 'take --accumulate 16, which'),
    ],
)
def test_too_little_memory_says_what_helps(tmp_path, monkeypatch, at, when, batch_size, accumulate, advice):
    module = Overfull(at)
    monkeypatch.setattr(Summary, 'write', lambda *_: module._check('end'))
    with pytest.raises(DataError, match=f'^out of memory on cpu {when}: {advice}.*allocate 2 GiB\\)$') as raised:
        fit(
            module, tmp_path, phases=[Phase(8, batch_size, 2, 0.1)], run=RunSettings(1, accumulate=accumulate),
            validate=module.validate,
        )  # fmt: skip
    assert bool(advice) == ('recipe' in str(raised.value)) == ('--accumulate' in str(raised.value))
    assert 'close other programs' in str(raised.value)
    assert '--cache-masks' not in str(raised.value)


def test_too_little_memory_to_resume_is_no_bad_checkpoint(tmp_path, monkeypatch):
    fit(fresh(), tmp_path)

    def overfull(*_):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    monkeypatch.setattr(torch.optim.AdamW, 'load_state_dict', overfull)
    with pytest.raises(DataError, match=r'^out of memory on cpu before the first step: close .*2 GiB\)$'):
        fit(fresh(), tmp_path)


def test_other_errors_are_not_taken_for_too_little_memory(tmp_path):
    def broken():
        raise RuntimeError('shapes differ')

    with pytest.raises(RuntimeError, match='shapes differ'):
        fit(fresh(), tmp_path, phases=[Phase(8, 2, 2, 0.1)], validate=broken)


def test_fp16_leaves_out_steps_that_overflow_and_resumes_its_scale(tmp_path):
    def scaled(folder, stop):
        module = fresh()

        def loss(batch, step):
            if step == stop:
                os.kill(os.getpid(), signal.SIGINT)
            output = module(batch.rows)
            assert output.dtype == torch.float16
            # At first the scaled gradient of this is above the largest number of fp16.
            return {'large': Term((30 * output - batch.rows.sum(1, keepdim=True)).float().square().sum(), 2, 1.0)}

        fit(module, folder, loss, [Phase(8, 2, 20, 0.01)], RunSettings(threads=1, precision='fp16'))
        return module

    module = scaled(tmp_path / 'a', None)
    scale = torch.load(tmp_path / 'a' / 'checkpoint.pt')['scaler']['scale']
    assert 1 < scale < 65536
    assert not torch.equal(module[0].weight, fresh()[0].weight)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    with pytest.raises(TrainingStoppedError):
        scaled(tmp_path / 'b', 11)
    assert_same_weights(scaled(tmp_path / 'b', None), module)


def test_fp16_gives_up_when_no_scale_helps(tmp_path):
    module = fresh()

    def loss(batch, _):
        return {'root': Term(module(batch.rows).float().square().sum() + (module[0].bias * 0).sum().sqrt(), 1, 1.0)}

    with pytest.raises(DataError, match='norm of the gradient is nan at step 16;'):
        fit(module, tmp_path, loss, run=RunSettings(threads=1, precision='fp16'))
    assert_same_weights(module, fresh())


def test_learning_rate_warms_up_and_falls_to_one_percent():
    phase = Phase(8, 2, 1000, 2.0)
    rates = [learning_rate(step, phase) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 / 200)
    assert rates[99] == pytest.approx(2.0 / 2 * (0.01 + 0.99 * (1 + math.cos(math.pi * 0.099)) / 2))
    assert max(rates) == max(rates[150:260])
    assert rates[999] == pytest.approx(0.02, rel=0.01)


def test_only_matrices_decay(tmp_path):
    module = nn.Linear(2, 2)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)
    fit(module, tmp_path, lambda *_: {'none': Term(0 * (module.weight.sum() + module.bias.sum()), 1, 1.0)}, PHASES[:1])
    kept = math.prod(1 - 0.05 * learning_rate(step, PHASES[0]) for step in range(60))
    torch.testing.assert_close(module.weight.detach(), torch.full((2, 2), kept))
    assert torch.equal(module.bias, torch.ones(2))


def test_averaged_weights_are_kept_resumed_and_loaded(tmp_path):
    def averaged(folder, step):
        module = fresh()
        module.register_buffer('mean', torch.zeros(2))
        module.register_buffer('count', torch.zeros((), dtype=torch.int64))
        frozen = module[0].bias.requires_grad_(False)
        trained = [parameter for parameter in module.parameters() if parameter is not frozen]
        history = []

        def loss(batch, now):
            history.append(module[2].weight.detach().clone())
            module.mean += 1
            module.count += 1
            if now == step:
                os.kill(os.getpid(), signal.SIGINT)
            return square_loss(module)(batch, now)

        train(module, trained, [Phase(8, 2, 20, 0.1)], batches_of_rows, loss, folder, run=RUN, ema=0.9)
        return module, [*history[1:], torch.load(folder / 'checkpoint.pt')['module']['2.weight']]

    module, history = averaged(tmp_path / 'a', None)
    state = load_trained(tmp_path / 'a')
    expected = fresh()[2].weight.detach().clone()
    for step, weight in enumerate(history):
        expected = torch.lerp(expected, weight, 1 - min(0.9, (1 + step) / (10 + step)))
    torch.testing.assert_close(state['2.weight'], expected)
    assert torch.equal(state['2.weight'], module[2].weight)
    assert not torch.equal(state['2.weight'], history[-1])
    assert state['count'] == 20
    assert 10 < state['mean'][0] < 20
    assert torch.equal(state['0.bias'], module[0].bias)
    with pytest.raises(TrainingStoppedError, match='SIGINT'):
        averaged(tmp_path / 'b', 7)
    averaged(tmp_path / 'b', None)
    for name, tensor in load_trained(tmp_path / 'b').items():
        assert torch.equal(tensor, state[name]), name


def test_bf16_reaches_the_forward_pass_and_not_the_weights(tmp_path):
    module = fresh()
    seen = []

    def loss(batch, _):
        output = module(batch.rows)
        seen.append(output.dtype)
        return {'square': Term(output.float().square().sum(), 2, 1.0)}

    fit(module, tmp_path, loss, [Phase(8, 2, 2, 0.1)], RunSettings(threads=1, precision='bf16'))
    assert seen == [torch.bfloat16] * 2
    assert module[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'phases': [Phase(32, 2, 60, 0.2), PHASES[1]]}, r'phases\.0\.learning_rate was 0\.1, is 0\.2'),
        ({'phases': PHASES[:1]}, r'phases\.1\.batch_size was 2, is not set'),
        ({'run': RunSettings(threads=1, recipe={'seed': 8})}, 'seed was 7, is 8'),
        ({'run': RunSettings(threads=1, recipe={'seed': 7}, precision='bf16')}, 'precision was "fp32", is "bf16"'),
        ({'ema': 0.9}, 'ema was null, is 0.9'),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, changed, message):
    settings = {'run': RunSettings(threads=1, recipe={'seed': 7}, max_seconds=1e-6)}
    with pytest.raises(TrainingStoppedError):
        fit(fresh(), tmp_path, **settings)
    before = (tmp_path / 'checkpoint.pt').read_bytes()
    with pytest.raises(DataError, match=f'checkpoint.pt is of another recipe: .*{message}'):
        fit(fresh(), tmp_path, **{**settings, **changed})
    assert (tmp_path / 'checkpoint.pt').read_bytes() == before


def test_corrupt_checkpoints_are_named(tmp_path):
    module = nn.Linear(100, 10)
    train(
        module, list(module.parameters()), [Phase(8, 2, 1, 0.1)], batches_of_rows,
        lambda *_: {'norm': Term(module.weight.square().sum(), 1, 1.0)}, tmp_path, run=RUN,
    )  # fmt: skip
    path = tmp_path / 'checkpoint.pt'
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[good.index(module.weight.detach().numpy().tobytes()) + 1000] ^= 1
    for content in (good[: len(good) // 2], b'', b'hello', bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r'checkpoint\.pt is truncated or corrupt'):
            fit(fresh(), tmp_path)
        with pytest.raises(DataError, match=r'checkpoint\.pt is truncated or corrupt'):
            load_trained(tmp_path)
    path.write_bytes(good)
    assert torch.equal(load_trained(tmp_path)['weight'], module.weight)
    torch.save({'step': 3}, path)
    with pytest.raises(DataError, match=r'checkpoint\.pt is no checkpoint'):
        load_trained(tmp_path)
    with pytest.raises(DataError, match='does not fit'):
        fit(fresh(), tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r'checkpoint\.pt is missing'):
        load_trained(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    fit(fresh(), tmp_path, phases=[Phase(8, 2, 1, 0.1)])
    other = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    with pytest.raises(DataError, match=r'checkpoint\.pt does not fit: (.|\n)*size mismatch'):
        fit(other, tmp_path, phases=[Phase(8, 2, 1, 0.1)])


def test_an_interrupted_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    module = fresh()
    with pytest.raises(TrainingStoppedError):
        fit(module, tmp_path, run=RunSettings(threads=1, max_seconds=1e-6))
    good = (tmp_path / 'checkpoint.pt').read_bytes()

    def half(content, file):
        file.write(good[:100])
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', half)
        with pytest.raises(DataError, match=r'checkpoint\.pt cannot be written: .*No space left'):
            fit(fresh(), tmp_path, run=RunSettings(threads=1, max_seconds=1e-6))
    assert (tmp_path / 'checkpoint.pt').read_bytes() == good
    fit(module, tmp_path)


def test_the_log_has_no_line_of_steps_that_are_done_again(tmp_path):
    module = fresh()
    validated = dict(validate=lambda: {'score': 0.5}, validate_every=5)
    with pytest.raises(TrainingStoppedError):
        fit(module, tmp_path, acting_at(6, module, lambda: os.kill(os.getpid(), signal.SIGINT)), **validated)
    with (tmp_path / 'log.jsonl').open('a') as log:
        log.write('{"step": 10, "score": 0.9}\n{"step": 1')
    fit(module, tmp_path, **validated)
    steps = [json.loads(line)['step'] for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert steps == list(range(5, 91, 5))


def test_time_left_covers_all_phases_by_their_cost(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
    with progress.TrainingLog(tmp_path, 2, [1.0] * 4 + [4.0] * 5, is_main=False) as log:
        clock[0] += 6
        log.show(4, 8, {})
        # Two steps of cost 1 took 6 s, steps of cost 20 are left.
        assert log.seconds_left(4) == pytest.approx(60)
        with log.pause():
            clock[0] += 10
        clock[0] += 2
        assert log.images_per_second() == pytest.approx(8 / 8)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: Phase(32, 0, 60, 0.1), 'batch_size of a phase must be 1 or more, got 0'),
        (lambda: Phase(32, 2, 60, 0.0), 'learning_rate of a phase must be above 0, got 0.0'),
        (lambda: RunSettings(threads=0), 'threads must be 1 or more, got 0'),
        (lambda: RunSettings(max_seconds=-1.0), 'max_seconds must be above 0, got -1.0'),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_parameters_that_checkpoints_would_miss_are_refused(tmp_path):
    module, other = fresh(), fresh()
    with pytest.raises(ValueError, match='parameters of module'):
        train(module, list(other.parameters()), PHASES, batches_of_rows, square_loss(module), tmp_path, run=RUN)

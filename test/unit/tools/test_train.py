import json

import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.tools.train import main
from fisa_ros.training import stages
from fisa_ros.training.loop import TrainingStoppedError
from fisa_ros.training.progress import Summary

RECIPE = """
stage: generator
seed: 3
precision: bf16
phases: [{size: 32, batch_size: 2, steps: 100, learning_rate: 0.1}]
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / 'recipe.yaml'
    path.write_text(RECIPE)
    return str(path)


def summary(stopped_by=None):
    return Summary(7, 10, stopped_by, 1.5, 0.0, 2.0, {'total': 0.5}, {})


def running(monkeypatch, stopped_by=None):
    """Replace the training by one that only writes its summary; returns what it was called with."""
    calls = []

    def run_stage(recipe, data, out, run, earlier):
        calls.append((recipe, data, out, run, earlier))
        (out / recipe.stage).mkdir(parents=True)
        summary(stopped_by).write(out / recipe.stage)
        if stopped_by:
            raise TrainingStoppedError(summary(stopped_by))

    monkeypatch.setattr(stages, 'run_stage', run_stage)
    return calls


def test_arguments_reach_the_stage(recipe, tmp_path, monkeypatch, capsys):
    calls = running(monkeypatch)
    arguments = ['--recipe', recipe, '--data', 'd', '--out', str(tmp_path / 'o'), '--threads', '3']
    arguments += ['--stages', 's', '--max-seconds', '60', '--steps-scale', '0.1', '--json']
    arguments += ['--accumulate', '2', '--loaders', '4', '--cache-masks', 'c']
    assert main(arguments) == 0
    ((given, data, out, run, earlier),) = calls
    assert str(data) == 'd'
    assert out == tmp_path / 'o'
    assert str(earlier) == 's'
    assert [phase.steps for phase in given.phases] == [10]
    assert (run.threads, run.max_seconds, run.precision) == (3, 60.0, 'bf16')
    assert run.recipe == given.settings()
    assert (run.accumulate, run.loaders, str(run.mask_cache)) == (2, 4, 'c')
    printed = json.loads(capsys.readouterr().out)
    assert (printed['cpu_seconds'], printed['gpu_seconds'], printed['losses']) == (1.5, 0.0, {'total': 0.5})


@pytest.mark.parametrize(('reason', 'status'), [('time limit', 0), ('SIGINT', 130), ('SIGTERM', 143)])
def test_an_early_stop_says_so(recipe, tmp_path, monkeypatch, capsys, reason, status):
    running(monkeypatch, reason)
    assert main(['--recipe', recipe, '--out', str(tmp_path / 'o'), '--json']) == status
    shown = capsys.readouterr()
    assert f'stopped by {reason} after step 7 of 10' in shown.err
    assert json.loads(shown.out)['stopped_by'] == reason


def test_one_process_of_several_prints(recipe, tmp_path, monkeypatch, capsys):
    running(monkeypatch)
    monkeypatch.setenv('RANK', '1')
    assert main(['--recipe', recipe, '--out', str(tmp_path / 'o'), '--json']) == 0
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--recipe', 'unknown'],
            "recipe 'unknown' cannot be read (shipped: coco-fisa-l, coco-fisa-s, tiny-clip, tiny-fisa, tiny-generator)",
        ),
        (['--steps-scale', '0'], 'the scale of the steps must be above 0, got 0.0'),
        (['--threads', '0'], 'threads must be 1 or more, got 0'),
        (['--max-seconds', '0'], 'max_seconds must be above 0, got 0.0'),
        (['--accumulate', '0'], 'accumulate must be 1 or more, got 0'),
        (['--loaders', '-1'], 'loaders must be 1 or more, got -1'),
        (['--estimate'], 'only stage fisa can be estimated, got generator'),
    ],
)
def test_mistakes_end_with_a_line(recipe, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(stages, 'run_stage', lambda *_: pytest.fail('trained'))
    assert main(['--recipe', recipe, *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith('error: ')
    assert message in shown.err
    assert shown.out == ''


def test_a_broken_training_ends_with_a_line(recipe, monkeypatch, capsys):
    def run_stage(*_):
        raise DataError('loss is nan at step 3')

    monkeypatch.setattr(stages, 'run_stage', run_stage)
    assert main(['--recipe', recipe, '--json']) == 2
    shown = capsys.readouterr()
    assert shown.err == 'error: loss is nan at step 3\n'
    assert shown.out == ''


def test_an_estimate_trains_nothing(monkeypatch, capsys):
    monkeypatch.setattr(stages, 'run_stage', lambda *_: pytest.fail('trained'))
    assert main(['--recipe', 'tiny-fisa', '--estimate']) == 0
    text = capsys.readouterr().out
    assert 'parameters learn' in text
    assert '12,800 images, at 35% of the speed of the data sheet' in text
    assert 'RTX 4090: 0.0 GPU-hours' in text
    assert main(['--recipe', 'tiny-fisa', '--estimate', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['images'] == 1600 * 8
    assert found['classifier_gflop'] < found['image_gflop']
    assert set(found['gpu_hours']['RTX 4090']) == {'with_cache', 'without_cache'}


def test_an_interrupt_before_the_first_step_says_that_it_goes_on(recipe, monkeypatch, capsys):
    def run_stage(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, 'run_stage', run_stage)
    assert main(['--recipe', recipe]) == 130
    assert 'the same command goes on' in capsys.readouterr().err

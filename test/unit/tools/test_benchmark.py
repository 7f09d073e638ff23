import json
import os

import cv2
import numpy as np
import pytest
import torch

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.runtime import machine_peak
from fisa_ros.runtime.backend import RawSegmentation
from fisa_ros.tools import benchmark_backends
from fisa_ros.tools.benchmark import main
from fisa_ros.tools.benchmark_configuration import KEYS, BenchmarkError, Configuration, parse_pairs, parse_sweep
from fisa_ros.tools.benchmark_machine import cpu_seconds, memory_mb
from fisa_ros.tools.benchmark_roofline import roofline


class FakeBackend:
    """Calls the whole image by the first word, and remembers each call."""

    name, device, precision = 'fake', 'cpu', 'fp32'
    image_size_hw, embedding_dim, num_semantic_tokens, max_classes = (8, 12), 6, 4, None

    def __init__(self, threads, calls):
        self.threads, self.calls, self.closed = threads, calls, 0

    def segment(self, image, state, thresholds):
        raise AssertionError('frames are timed')

    def segment_timed(self, image, state, thresholds):
        assert image.shape == (8, 12, 3)
        self.calls.append((self.threads, len(state.is_thing), state.synonym_mask.shape[1]))
        raw = RawSegmentation(np.ones((4, 4), np.int32), np.zeros(1, np.int64), np.ones(1, np.float32))
        return raw, {'upload': 0.0, 'encoder': 2e-3, 'head': 1e-3, 'download': 0.0}

    def encode_text(self, sentences):
        rows = np.random.default_rng(len(sentences)).normal(size=(len(sentences), 6)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self):
        self.closed += 1


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """A back-end called fake; yields those made and all calls of them."""
    made, calls = [], []

    def make(manifest, device, threads, precision):
        made.append(FakeBackend(threads, calls))
        return made[-1]

    monkeypatch.setitem(benchmark_backends.BACKEND_FACTORIES, 'fake', make)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    yield made, calls
    assert all(backend.closed == 1 for backend in made)


@pytest.fixture
def quick_peak(monkeypatch):
    monkeypatch.setattr(machine_peak, '_SECONDS', 0.0)
    monkeypatch.setattr(machine_peak, '_MATRIX_SIZE', 64)
    monkeypatch.setattr(machine_peak, '_COPY_BYTES', 1 << 20)


def run(capsys, *arguments):
    status = main([*arguments, '--json'])
    printed, errors = capsys.readouterr()
    assert status == 0, errors
    return json.loads(printed)


def check_times(report, frames):
    total = report['total_ms']
    assert set(total) == {'n', 'mean', 'p50', 'p95', 'p99'}
    assert total['n'] == frames
    assert 0 < total['p50'] <= total['p95'] <= total['p99']
    stages = report['stages_ms']
    assert sum(entry['mean'] for entry in stages.values()) <= total['mean'] * (1 + 1e-5)
    assert report['frames_per_s'] == pytest.approx(1e3 / total['mean'], rel=1e-4)
    networks = stages['encoder']['mean'] + stages['head']['mean']
    assert report['around_graphs'] == pytest.approx(1 - networks / total['mean'], abs=1e-4)


def test_one_configuration(capsys, fakes):
    report = run(capsys, '--backend', 'fake', '--frames', '4', '--warm-up', '1', '--size', '64x48')
    made, calls = fakes
    assert len(made) == 1
    assert calls == [(None, 30, 3)] * 5
    check_times(report, 4)
    assert list(report['stages_ms']) == [
        'decode', 'resize', 'upload', 'encoder', 'head', 'download', 'segments', 'messages',
    ]  # fmt: skip
    assert (report['model'], report['backend'], report['device']) == ('fisa-tiny', 'fake', 'cpu')
    assert (report['size'], report['network_size'], report['words']) == ('64x48', '12x8', 30)
    assert report['resize'] == 'stretch'
    assert 0 < report['memory_mb']['before'] <= report['memory_mb']['peak']
    assert 'does not run the exported graphs' in report['roofline']['not_available']
    assert report['machine']['cores'] >= 1
    assert {'python', 'numpy', 'fisa_ros'} <= set(report['machine']['versions'])


def test_a_sweep_takes_turns(capsys, fakes, tmp_path):
    plot = tmp_path / 'plot.png'
    report = run(
        capsys, '--backend', 'fake', '--frames', '3', '--warm-up', '2', '--sweep', 'words=1,10,100', '--plot', str(plot)
    )
    made, calls = fakes
    assert len(made) == 1
    assert [words for _, words, _ in calls] == [1, 10, 100] * 5
    assert [point['words'] for point in report['sweep']] == [1, 10, 100]
    for point in report['sweep']:
        check_times(point, 3)
        assert set(point['ratio']) == {'value', 'low', 'high'}
        assert 0 < point['ratio']['low'] <= point['ratio']['value'] <= point['ratio']['high']
    assert report['sweep'][0]['ratio'] == {'value': 1.0, 'low': 1.0, 'high': 1.0}
    assert report['sweep'][2]['made_up_names'] == 70
    assert cv2.imread(str(plot)).min() < 128


def test_a_sweep_of_sizes_keeps_its_text(capsys, fakes):
    report = run(capsys, '--backend', 'fake', '--frames', '1', '--sweep', 'size=32x24,64x48')
    assert [point['size'] for point in report['sweep']] == ['32x24', '64x48']
    assert {words for _, words, _ in fakes[1]} == {30}


def test_two_configurations_are_compared_on_the_same_frames(capsys, fakes):
    report = run(capsys, '--backend', 'fake', '--frames', '3', '--warm-up', '0', '--against', 'threads=2', 'synonyms=0')
    assert fakes[1] == [(None, 30, 3), (2, 30, 1)] * 3
    assert [entry['changed'] for entry in report['compared']] == [
        {'threads': None, 'synonyms': None},
        {'threads': 2, 'synonyms': 0},
    ]
    for entry in report['compared']:
        check_times(entry, 3)
    assert report['label_agreement'] == 1.0
    assert report['agreement_frames'] == 3
    assert report['ratio']['low'] <= report['ratio']['value'] <= report['ratio']['high']
    assert report['stage_ratios']['encoder'] == {'value': 1.0, 'low': 1.0, 'high': 1.0}
    assert 'upload' not in report['stage_ratios']


def test_images_of_two_sizes_have_no_labels_to_compare(capsys, fakes):
    assert main(['--backend', 'fake', '--frames', '1', '--against', 'size=32x24']) == 0
    printed = capsys.readouterr().out
    assert 'labels cannot be compared: the images differ in size' in printed
    assert 'size=32x24' in printed


@pytest.mark.parametrize(
    ('arguments', 'shown'),
    [
        (
            [],
            [
                '30 words x 3 names',
                'encoder',
                'between stages',
                '4 frames',
                'of the time around the graphs',
                'roofline:',
            ],
        ),
        (['--sweep', 'words=1,40'], ['95 % interval', '4 rounds in turn', '10 names made up']),
        (['--against', 'words=2'], ['words=2', 'ratio of the medians', 'same label on 100.000 % of the pixels']),
    ],
)
def test_tables_are_aligned_and_say_what_was_done(capsys, fakes, arguments, shown):
    assert main(['--backend', 'fake', '--frames', '4', *arguments]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in shown), printed
    assert 'memory of this process' in printed
    header = next(line for line in printed.splitlines() if 'p50' in line)
    following = printed.splitlines()[printed.splitlines().index(header) + 1]
    assert len(header) == pytest.approx(len(following), abs=8)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--size', '0x480'], 'size is 0x480: sides must be in 1..16384 with at most 67108864 pixels'),
        (['--size', '640'], "size must be of the form 640x480, got '640'"),
        (['--size', '20000x10'], 'size is 20000x10: sides must be in 1..16384'),
        (['--words', '0'], 'words must be in 1..65535, got 0'),
        (['--words', 'many'], "words must be a whole number, got 'many'"),
        (['--synonyms', '9'], 'synonyms must be in 0..8, got 9'),
        (['--threads', '0'], 'threads must be in 1..1024, got 0'),
        (['--frames', '0'], 'frames must be in 1..100000, got 0'),
        (['--warm-up', '-1'], 'warm-up must be in 0..100000, got -1'),
        (['--peak-gflops', '0'], 'peak-gflops must be above 0, got 0'),
        (['--backend', 'magic'], "unknown back-end 'magic', choose one of auto, torch, onnxruntime, tensorrt"),
        (['--device', 'gpu'], "unknown device 'gpu', choose auto, cpu, cuda or cuda:<number>"),
        (['--model', 'nobody'], 'nobody'),
        (['--vocabulary', 'cat,,dog'], "empty name in class 'cat,,dog'"),
        (['--images', '/nowhere'], '/nowhere has 0 images'),
        (['--sweep', 'colour=1,2'], f"unknown key 'colour', choose one of {', '.join(KEYS)}"),
        (['--masks', '0'], 'masks must be in 1..65535, got 0'),
        (['--sweep', 'masks=48,49'], "masks must be in 1..48 for model 'fisa-tiny', got 49"),
        (['--masks', '8', '--model', 'fisa-s'], "no weights are shipped for model 'fisa-s'"),
        (['--sweep', 'words=1'], "a sweep needs at least two values, got 'words=1'"),
        (['--sweep', 'words=1,1'], "a sweep needs different values, got 'words=1,1'"),
        (['--sweep', 'words'], "'words' is not of the form key=value"),
        (['--sweep', 'cameras=1,2'], 'cameras=2 can be measured through ROS only: add --ros'),
        (['--sweep', 'words=1,2', '--plot', '/nowhere/plot.png'], '/nowhere is not a folder'),
        (['--against', 'backend=magic'], "unknown back-end 'magic'"),
        (['--against', 'words=1', 'words=2'], "words is given twice, '1' and '2'"),
        (['--plot', 'plot.png'], '--plot plot.png needs a --sweep to draw'),
        (['--rate', '5'], '--rate 5 needs --ros'),
        (['--ros', '--rate', '-1'], 'rate must be in 0..1000, got -1'),
        (['--messages', '--cameras', '2'], '--messages measures one camera, got cameras=2'),
        (['--ros', '--messages'], '--messages measures without a node, which --ros starts'),
        (['--ros', '--against', 'words=1'], '--against compares within one process'),
    ],
)
def test_bad_input_is_named_with_its_limit(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert main(arguments) == 2
    printed, errors = capsys.readouterr()
    assert not printed
    assert errors.startswith('error: ')
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_keys_are_the_fields_of_a_configuration():
    assert KEYS == (
        'model',
        'backend',
        'device',
        'threads',
        'precision',
        'masks',
        'size',
        'vocabulary',
        'words',
        'synonyms',
        'cameras',
    )
    changed = Configuration().changed({'size': '320x240', 'words': '7', 'vocabulary': 'cat; dog'})
    assert changed == Configuration(size=(320, 240), words=7, vocabulary='cat; dog')
    assert changed.describe('size') == '320x240'
    with pytest.raises(BenchmarkError, match=r'cameras must be in 1\.\.16, got 17'):
        changed.changed({'cameras': '17'})


def test_pairs_and_sweeps_are_read():
    assert parse_pairs(['backend=torch', 'model=a=b.yaml']) == {'backend': 'torch', 'model': 'a=b.yaml'}
    assert parse_sweep('size=320x240, 640x480') == ('size', ['320x240', '640x480'])


def test_roofline_of_known_numbers():
    costs = {
        'encoder': {'flop': 2_000_000_000, 'weight_bytes': 1_000_000, 'activation_bytes': 9_000_000},
        'head': {'flop': 0, 'weight_bytes': 0, 'activation_bytes': 0},
    }
    peak = machine_peak.MachinePeak(400.0, 10.0, 'given by the user')
    report = roofline(costs, {'encoder': 20.0, 'head': 1.0}, peak)
    assert report['encoder']['gflops'] == pytest.approx(100.0)
    assert report['encoder']['flop_per_byte'] == pytest.approx(200.0)
    assert report['encoder']['share_of_peak_gflops'] == pytest.approx(0.25)
    assert report['encoder']['share_of_peak_gb_s'] == pytest.approx(0.05)
    assert report['head']['gflops'] == 0.0
    assert report['peak']['source'] == 'given by the user'
    assert roofline(costs, {'encoder': 20.0}, None)['encoder']['share_of_peak_gflops'] is None


def test_memory_and_time_of_a_process_are_read():
    memory = memory_mb()
    assert 1 < memory['rss'] <= memory['peak']
    assert 0 <= memory['shared'] < memory['rss']
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:
        pass
    assert cpu_seconds(os.getpid()) < before + 10


@pytest.mark.parametrize(
    ('name', 'device', 'threads', 'message'),
    [
        ('tensorrt', 'auto', 2, "back-end 'tensorrt' has no threads to choose, got threads=2"),
        ('onnxruntime', 'cuda', 2, "back-end 'onnxruntime' runs on the CPU, got device 'cuda'"),
        ('torch', 'cuda:99', None, "device 'cuda:99' is not there"),
    ],
)
def test_back_ends_refuse_what_they_cannot(name, device, threads, message):
    with pytest.raises(BackendUnavailableError, match=message):
        benchmark_backends.open_backend(load_manifest('fisa-tiny'), name, device, threads)


@pytest.fixture
def torch_threads():
    """Threads are a matter of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('quick_peak', 'torch_threads')
def test_the_shipped_model_on_two_back_ends(capsys):
    report = run(
        capsys, '--backend', 'onnxruntime', '--device', 'cpu', '--frames', '2', '--warm-up', '0', '--threads', '2',
        '--precision', 'fp32', '--against', 'backend=torch',
    )  # fmt: skip
    assert report['label_agreement'] > 0.99
    assert report['agreement_frames'] == 2
    assert set(report) == {
        'machine', 'compared', 'ratio', 'stage_ratios', 'label_agreement', 'agreement_frames', 'memory_mb',
    }  # fmt: skip
    for entry, name in zip(report['compared'], ('onnxruntime', 'torch'), strict=True):
        check_times(entry, 2)
        assert (entry['backend'], entry['threads'], entry['changed']) == (name, 2, {'backend': name})
        assert entry['roofline']['encoder']['flop'] > 1e9
        assert entry['roofline']['encoder']['weight_bytes'] > 1e7
        assert entry['roofline']['head']['activation_bytes'] > 1e6
        assert entry['roofline']['peak']['gflops'] > 0
        assert entry['roofline']['encoder']['gflops'] == pytest.approx(
            entry['roofline']['encoder']['flop'] / entry['stages_ms']['encoder']['p50'] * 1e-6, rel=1e-4
        )


@pytest.mark.parametrize(('device', 'chosen'), [('cpu', 'cpu'), ('cuda', 'cuda:0')])
@pytest.mark.parametrize('precision', ['auto', 'fp32'])
def test_the_precision_reaches_torch(monkeypatch, device, chosen, precision):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    monkeypatch.setattr(
        'fisa_ros.runtime.torch_backend.TorchBackend',
        lambda manifest, device, threads=None, precision='auto': (device, precision),
    )
    manifest = load_manifest('fisa-tiny')
    assert benchmark_backends.open_backend(manifest, 'torch', device, None, precision) == (chosen, precision)


@pytest.mark.slow
@pytest.mark.usefixtures('quick_peak', 'torch_threads')
def test_fewer_masks_are_exported_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    arguments = ['--device', 'cpu', '--frames', '2', '--warm-up', '0', '--size', '320x320']
    report = run(capsys, *arguments, '--backend', 'torch', '--sweep', 'masks=8,48')
    assert [point['masks'] for point in report['sweep']] == [8, 48]
    (described,) = tmp_path.glob('fisa_ros/fisa-tiny/*/graphs.json')
    assert json.loads(described.read_text())['num_masks'] == 8
    monkeypatch.setattr('fisa_ros.tools.export.export_model', lambda *_: pytest.fail('exported again'))
    report = run(capsys, *arguments, '--backend', 'onnxruntime', '--masks', '8')
    assert (report['masks'], report['backend']) == (8, 'onnxruntime')

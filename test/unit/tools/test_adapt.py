import contextlib
import io
import json
import resource
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fisa_ros.core.manifest import file_sha256, load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.site_images import open_folder
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.simulation.dataset_writer import SimulationSettings, write_dataset
from fisa_ros.tools.adapt import main
from fisa_ros.training import adapt_views
from fisa_ros.training.adapt import AdaptRequest, adapt
from fisa_ros.training.adapt_choice import ALPHAS, SHORT_ALPHAS
from fisa_ros.training.adapt_stage import AdaptOptions
from fisa_ros.training.pseudo_masks import SureRule
from fisa_ros.training.settings import RunSettings

SHORT = ['--views', 1, '--threads', 1]
WEIGHTS = share_dir() / 'models' / 'fisa-tiny.safetensors'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """Three views of a warehouse with their masks."""
    root = tmp_path_factory.mktemp('site')
    write_dataset(root, SimulationSettings('train', (160, 120), 1, style='warehouse'), 3, processes=1)
    return root


@pytest.fixture
def copy(site, tmp_path):
    return shutil.copytree(site, tmp_path / 'copy') / 'train'


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope='module')
def adapted(site, tmp_path_factory):
    """Folder of the adapted model of a few steps, saved whatever it is worth; `table.txt` is what was printed."""
    out = tmp_path_factory.mktemp('adapted')
    sums = {path: file_sha256(path) for path in (WEIGHTS, WEIGHTS.with_suffix('.yaml'))}
    arguments = ['--images', site / 'train', '--out', out / 'model', '--steps', 4, '--rehearsal', site / 'train']
    table = io.StringIO()
    (out / 'model').mkdir()
    for suffix in ('.yaml', '.safetensors', '_vocabulary.yaml'):
        (out / 'model' / f'tiny-site{suffix}').write_text('a former model of this name')
    options = [*SHORT, '--force', '--name', 'tiny-site', '--replace']
    with contextlib.redirect_stdout(table):
        assert main([str(argument) for argument in [*arguments, *options]]) == 0
    (out / 'table.txt').write_text(table.getvalue())
    assert {path: file_sha256(path) for path in sums} == sums
    return out


def test_what_is_written_is_a_model(adapted, site):
    assert {path.name for path in (adapted / 'model').iterdir()} == {
        'tiny-site.yaml', 'tiny-site.safetensors', 'tiny-site_vocabulary.yaml', 'tiny-site_report.json',
        'tiny-site_before_after.png',
    }  # fmt: skip
    base, manifest = load_manifest('fisa-tiny'), load_manifest(adapted / 'model' / 'tiny-site.yaml')
    assert (manifest.licence, manifest.thresholds) == (base.licence, base.thresholds)
    assert manifest.classifier == base.classifier
    assert manifest.weights.sha256 != base.weights.sha256
    assert base.weights.sha256 in manifest.description
    request = VocabularyRequest.parse(str(adapted / 'model' / 'tiny-site_vocabulary.yaml'))
    vocabulary = VocabularyRegistry().propose(request)
    assert len(vocabulary.classes) > 30
    segmenter = Segmenter.load(adapted / 'model' / 'tiny-site.yaml', 'torch', 'cpu', cache=False)
    try:
        result = segmenter.segment(open_folder(site / 'train').image(0), segmenter.prepare(vocabulary))
        assert result.panoptic_map.shape == (120, 160)
    finally:
        segmenter.close()


def test_the_report_tells_what_was_measured(adapted):
    report = json.loads((adapted / 'model' / 'tiny-site_report.json').read_text())
    assert report['model_sha256'] == load_manifest('fisa-tiny').weights.sha256
    assert (report['images'], report['rehearsal_images'], report['steps']) == (3, 3, 4)
    assert sum(report['masks'].values()) > 0
    assert set(report['before']['per_class']) <= set(report['masks'])
    assert report['before']['new_masks'] == report['after']['new_masks'] > 0
    # The one image that is kept out cannot be parted: what is chosen by it is measured on it.
    assert report['alpha_of_parts'] == [report['alpha']]
    assert report['trials'][str(report['alpha'])] == report['after']
    assert report['after']['new_views'] > 1
    assert report['base_measured_on'].endswith(' images kept out of the tuning')
    page = cv2.imread(str(adapted / 'model' / 'tiny-site_before_after.png'))
    assert page.shape[1] == 3 * (480 + 6)
    assert page.std() > 20


def request(site, out, **changes):
    values = dict(
        model='fisa-tiny', images=site / 'train', base=VocabularyRequest.parse('indoor'), out=out, name='site', views=1,
        options=AdaptOptions(steps=3, learning_rate=0.3, guard_weight=0.0),
    )  # fmt: skip
    return AdaptRequest(**{**values, **changes})


def test_what_forgets_the_base_classes_is_not_saved(site, tmp_path):
    wild = adapt(request(site, tmp_path / 'out'), RunSettings(1))
    # The fixture `adapted` was forced.
    assert 'more than the 1 allowed: nothing was saved' in wild.refusal
    assert wild.report['base_drop'] > 0.01
    # Shorter steps were tried to save it.
    assert wild.report['trials'].keys() == {str(alpha) for alpha in (*ALPHAS, *SHORT_ALPHAS)}
    assert wild.manifest is None
    assert not (tmp_path / 'out').exists()


def test_the_report_says_that_too_few_images_are_measured_on_too(tmp_path):
    write_dataset(tmp_path, SimulationSettings('train', (160, 120), 1, style='warehouse'), 2, processes=1)
    report = adapt(request(tmp_path, tmp_path / 'out', options=AdaptOptions(steps=1)), RunSettings(1)).report
    assert report['held_out_images'] == []
    assert report['base_measured_on'].endswith(' the images of the tuning themselves')
    assert len(report['alpha_of_parts']) == 2


def test_what_could_not_be_measured_is_not_saved(site, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt_views, '_MAX_VIEWS', 4)
    blind = adapt(request(site, tmp_path / 'out', base=VocabularyRequest.parse('unicorn'), views=7), RunSettings(1))
    # One of each of the three images, in whole batches.
    assert blind.report['views'] == 4
    assert blind.report['after']['base_masks'] == 0
    assert 'base classes could be measured on 0 masks only, 20 are needed: nothing was saved' in blind.refusal
    assert blind.manifest is None


def test_names_alone_take_what_the_model_is_sure_of(copy, tmp_path):
    """Window and door are new only to this vocabulary, so the model finds them by itself."""
    shutil.rmtree(copy.parent / 'annotations')
    base = VocabularyRequest.parse('floor; wall; ceiling; chair')
    changes = dict(
        images=copy, base=base, names=('window, glass window', 'door', 'unicorn'), sure=SureRule(min_score=0.3),
        options=AdaptOptions(steps=1), is_forced=True,
    )  # fmt: skip
    found = adapt(request(copy.parent, tmp_path / 'out', **changes), RunSettings(1))
    assert found.report['masks_from'] == 'the model itself, where it was sure'
    assert found.report['masks_are_guessed']
    assert found.report['masks']['unicorn'] == 0
    assert found.report['masks']['window'] + found.report['masks']['door'] > 0
    assert load_manifest(found.manifest).name == 'site'


def test_names_alone_and_nothing_sure(copy, tmp_path, capsys):
    arguments = ['--images', copy, '--out', tmp_path / 'out', *SHORT]
    shutil.rmtree(copy.parent / 'annotations')
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert 'has neither masks' in err
    code, _, err = run(capsys, *arguments, '--names', 'unicorn; forklift', '--sure', 0.999)
    assert code == 2
    assert 'no mask is sure enough of a new class: a score of 0.999 is needed, the best are unicorn 0.' in err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--model', 'moon'], "unknown model 'moon'"),
        (['--names', 'forklift, chair'], "'chair' is in the base vocabulary already, in class 'chair'"),
        (['--names', 'unicorn'], 'has no mask of unicorn'),
        (['--annotations', 'none.json'], 'none.json cannot be read'),
        (['--rehearsal', 'none'], 'none is not a folder of images'),
        (['--max-drop', '-1'], r'must be in [0, 100] points, got -1'),
        (
            ['--name', '../x'],
            "letters, digits, dots, - and _ alone, a letter or digit first, 100 bytes at most, got '../",
        ),
        (['--name', '..'], "a letter or digit first, 100 bytes at most, got '..'"),
        (['--name', 'x' * 101], '100 bytes at most, got'),
        (['--seed', '-1'], 'seed must be 0 or more, got -1'),
        (['--minutes', '0'], '--minutes must be above 0, got 0'),
        (['--threads', '0'], 'threads must be 1 or more, got 0'),
        (['--sure', '1'], 'the score of a sure mask must be in (0, 1), got 1'),
        (['--out', str(WEIGHTS.parent), '--name', 'fisa-tiny'], 'fisa-tiny.yaml belongs to the model that is adapted'),
        (['--steps', '0'], 'steps must be 1 or more, got 0'),
        (['--vocabulary', 'none.yaml'], 'vocabulary file none.yaml does not exist'),
        (['--model', 'pooled-l'], "no weights are shipped for model 'pooled-l'"),
    ],
)
def test_what_cannot_be_done_is_said(copy, capsys, tmp_path, arguments, message):
    code, out, err = run(capsys, '--images', copy, '--out', tmp_path / 'out', *SHORT, *arguments)
    assert (code, out) == (2, '')
    assert message in err
    assert not (tmp_path / 'out').exists()


def test_a_model_of_that_name_is_kept_unless_it_is_to_be_replaced(capsys, tmp_path):
    """Before any work: the images are not even looked at."""
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'site.yaml').write_text('the work of last week')
    arguments = ['--out', out, '--name', 'site', *SHORT]
    code, _, err = run(capsys, '--images', tmp_path / 'nowhere', *arguments)
    assert code == 2
    assert f'{out}/site.yaml exists already: choose another --name or --out, or give --replace' in err
    assert 'nowhere is not a folder' in run(capsys, '--images', tmp_path / 'nowhere', *arguments, '--replace')[2]
    assert (out / 'site.yaml').read_text() == 'the work of last week'


def test_a_folder_that_cannot_be_is_refused_before_any_work(capsys, tmp_path):
    (tmp_path / 'file').write_text('')
    code, _, err = run(capsys, '--images', tmp_path / 'nowhere', '--out', tmp_path / 'file' / 'out')
    assert code == 2
    assert 'file is no folder that may be written to' in err


def start(copy, out, *arguments, limit=None):
    """Start the command line in a process of its own that can write files of `limit` bytes."""
    command = [sys.executable, '-m', 'fisa_ros.tools.adapt', '--images', copy, '--out', out, '--name', 'site', *SHORT]
    return subprocess.Popen(
        [str(argument) for argument in [*command, *arguments]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
    )  # fmt: skip


@pytest.mark.parametrize(
    ('number', 'sign'),
    [
        (signal.SIGINT, 'fisa-tiny on'),
        pytest.param(signal.SIGTERM, 'views to tune with', marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_nothing_behind(copy, tmp_path, number, sign):
    with start(copy, tmp_path / 'out', '--steps', 100_000) as process:
        for line in process.stdout:
            if sign in line:
                process.send_signal(number)
                break
        assert 'stopped; nothing was saved' in process.stdout.read()
    assert process.returncode == 130
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_former_model(copy, tmp_path):
    """Words and reports fit, weights do not."""
    out = tmp_path / 'out'
    out.mkdir()
    for file in ('site.yaml', 'site_vocabulary.yaml', 'site.safetensors'):
        (out / file).write_text('former')
    with start(copy, out, '--steps', 1, '--force', '--replace', limit=8_000_000) as process:
        text = process.stdout.read()
    assert process.returncode == 2
    assert 'site.safetensors cannot be written: ' in text
    assert 'Traceback' not in text
    assert sorted(path.name for path in out.iterdir()) == ['site.safetensors', 'site.yaml', 'site_vocabulary.yaml']
    assert {path.read_text() for path in out.iterdir()} == {'former'}


def test_the_model_is_not_written_over_by_another_way(copy, capsys, tmp_path):
    models, link = tmp_path / 'models', tmp_path / 'link'
    models.mkdir()
    link.symlink_to(models)
    for suffix in ('.yaml', '.safetensors'):
        shutil.copy(WEIGHTS.with_suffix(suffix), models)
    arguments = ['--images', copy, '--model', models / 'fisa-tiny.yaml', '--out', link, *SHORT]
    code, _, err = run(capsys, *arguments, '--name', 'fisa-tiny')
    assert code == 2
    assert 'link/fisa-tiny.yaml belongs to the model that is adapted' in err
    manifest = models / 'own.yaml'
    manifest.write_text((models / 'fisa-tiny.yaml').read_text().replace('name: fisa-tiny', 'name: own'))
    arguments[3] = manifest
    code, _, err = run(capsys, *arguments, '--name', 'fisa-tiny')
    assert code == 2
    assert 'link/fisa-tiny.safetensors belongs to the model that is adapted' in err


def test_broken_images_and_masks_are_refused(copy, capsys, tmp_path):
    arguments = ['--images', copy, '--out', tmp_path / 'out', *SHORT]
    path = copy / '00000001.jpg'
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert '00000001.jpg is cut off' in err
    path.write_bytes(whole)
    mask = copy.parent / 'annotations' / 'panoptic_train' / '00000002.png'
    cv2.imwrite(str(mask), np.full((120, 160, 3), 200, np.uint8))
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert 'disagree on the segments' in err
    assert run(capsys, '--images', tmp_path / 'nowhere', *SHORT)[0] == 2
    assert not (tmp_path / 'out').exists()


def test_a_table_for_people(adapted):
    table = (adapted / 'table.txt').read_text()
    assert 'new classes ' in table
    assert '3 images, masks from ' in table
    assert 'measured on the very images that chose the step: too few to part them' in table
    assert f'--model {adapted / "model" / "tiny-site.yaml"} --vocabulary' in table

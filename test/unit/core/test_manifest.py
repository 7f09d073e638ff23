from datetime import date
import hashlib
import re
import shutil

import pytest
import yaml

from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.core.manifest import (
    WeightsFile,
    load_manifest,
    shipped_models,
    untuned_note,
    verify_file,
    verify_weights,
)
from fisa_ros.core.model_sources import ModelSource, SourceFile
from fisa_ros.core.placement import Resize
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.weights_sum import note_sum, noted_sum

SHA256 = 'ab' * 32


def document():
    return {
        'name': 'tiny',
        'description': 'For tests.',
        'licence': 'Apache-2.0',
        'image_size_hw': [320, 256],
        'weights': {'file': 'tiny.safetensors', 'sha256': SHA256},
        'generator': {'type': 'eomt', 'num_queries': 50},
        'classifier': {'type': 'fisa'},
        'text_encoder': {'type': 'minilm'},
        'prompt_templates': ['{}', 'a photo of a {}.'],
        'thresholds': {'score': 0.5, 'mask': 0.4, 'overlap': 0.8},
    }


def sources(**changes):
    generator = {
        'layout': 'eomt',
        'repo': 'someone/eomt.small',
        'revision': 'main',
        'licence': 'MIT',
        'files': [
            {'name': 'model.safetensors', 'size': 12, 'sha256': SHA256},
            {'name': 'config.json', 'size': None, 'sha256': None},
        ],
    }
    return {'sources': {'generator': generator | changes}}


def write(folder, content, name='tiny.yaml'):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_manifest(tmp_path):
    manifest = load_manifest(write(tmp_path, document()))
    assert manifest.name == 'tiny'
    assert manifest.image_size_hw == (320, 256)
    assert manifest.weights == WeightsFile(tmp_path / 'tiny.safetensors', SHA256)
    assert manifest.generator == {'type': 'eomt', 'num_queries': 50}
    assert manifest.prompt_templates == ('{}', 'a photo of a {}.')
    assert manifest.thresholds == Thresholds(0.5, 0.4, 0.8)


def test_objectness_trust_may_be_given(tmp_path):
    content = document()
    content['thresholds']['objectness_trust'] = 0
    assert load_manifest(str(write(tmp_path, content))).thresholds.objectness_trust == 0.0


@pytest.mark.parametrize(
    ('generator', 'change', 'resize'),
    [
        ('eomt', {}, Resize('stretch')),
        ('eomt', {'resize': 'stretch'}, Resize('stretch')),
        ('eomt', {'resize': 'pad'}, Resize('pad', (0, 0, 0))),
        # The mean of ImageNet: 0 after the colours were normalised.
        ('mask2former', {'resize': 'pad'}, Resize('pad', (124, 116, 104))),
        ('mask2former', {}, Resize('stretch')),
    ],
)
def test_how_images_come_to_their_size(tmp_path, generator, change, resize):
    content = document() | {'generator': {'type': generator}} | change
    assert load_manifest(write(tmp_path, content)).resize == resize


def test_shipped_models_on_eomt_keep_proportions():
    kinds = {name: load_manifest(name).resize.kind for name in shipped_models()}
    assert kinds == {'fisa-tiny': 'stretch', 'fisa-s': 'pad', 'fisa-l': 'pad', 'pooled-l': 'pad'}


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('name', 'small', "name is 'small', but the file is tiny.yaml"),
        ('description', '', "description must be text, got ''"),
        ('licence', 3, 'licence must be text, got 3'),
        ('image_size_hw', 320, 'image_size_hw must be [height, width], each in 1..4096, got 320'),
        ('image_size_hw', [320], 'got [320]'),
        ('image_size_hw', [0, 320], 'got [0, 320]'),
        ('image_size_hw', [320, 5000], 'got [320, 5000]'),
        ('resize', 'crop', "resize must be one of stretch, pad, got 'crop'"),
        ('resize', None, 'resize must be one of stretch, pad, got None'),
        ('resize', ['pad'], "got ['pad']"),
        ('weights', 'tiny.safetensors', 'weights must be a mapping'),
        ('weights', {'file': 'tiny.safetensors'}, 'weights.sha256 is missing'),
        ('weights', {'file': 'x', 'sha256': 'abc'}, "weights.sha256 must be 64 hexadecimal digits, got 'abc'"),
        ('weights', {'file': 'x', 'sha256': SHA256, 'url': 'y'}, 'weights.url is unknown, known are file, sha256'),
        ('generator', {'num_queries': 50}, 'generator.type is missing'),
        ('classifier', None, 'classifier must be a mapping'),
        ('prompt_templates', [], 'prompt_templates must be a list of sentences, got []'),
        ('prompt_templates', ['a photo'], "prompt_templates must have one {} in each sentence, got 'a photo'"),
        ('prompt_templates', ['{} {}'], "got '{} {}'"),
        ('thresholds', {'score': 0.5, 'mask': 0.5}, 'thresholds.overlap is missing'),
        ('thresholds', {'score': 2, 'mask': 0.5, 'overlap': 0.5}, 'thresholds.score must be a number in [0, 1], got 2'),
        ('thresholds', {'score': True, 'mask': 0.5, 'overlap': 0.5}, 'got True'),
        ('thresholds', {'iou': 0.5}, 'thresholds.iou is unknown'),
        ('licenses', 'MIT', 'licenses is unknown'),
        (1, 'MIT', 'tiny.yaml: 1 must be text, in quotes, as all keys'),
        ('classifier', {'type': 'fisa', True: 2}, 'classifier.True must be text, in quotes'),
        ('generator', {'type': 'eomt', 'c': [{'names': {0: 'x', 'a': 'y'}}]}, 'generator.c.0.names.0 must be text'),
        ('generator', {'type': 'eomt', 'when': date(2026, 1, 2)}, 'generator.when must be text or a number, got datet'),
    ],
)
def test_manifests_refused(tmp_path, key, value, message):
    path = write(tmp_path, document() | {key: value})
    with pytest.raises(ManifestError, match=re.escape(message)) as refusal:
        load_manifest(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize('key', list(document()))
def test_every_key_is_needed(tmp_path, key):
    content = document()
    del content[key]
    with pytest.raises(ManifestError, match=f'{key} is missing'):
        load_manifest(write(tmp_path, content))


@pytest.mark.parametrize('content', ['', '- a', 'name: [', 'name: \x00'])
def test_no_yaml_mapping(tmp_path, content):
    with pytest.raises(ManifestError, match=r'tiny\.yaml'):
        load_manifest(write(tmp_path, content))


def test_unknown_models_are_answered_with_the_known_ones():
    with pytest.raises(ManifestError, match=r"unknown model 'fisa-huge': shipped are .*fisa-tiny.* \(\.yaml\)"):
        load_manifest('fisa-huge')


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match=r'none\.yaml cannot be read'):
        load_manifest(tmp_path / 'none.yaml')


def test_shipped_manifests_are_sound():
    assert set(shipped_models()) >= {'fisa-tiny', 'fisa-s', 'fisa-l', 'pooled-l'}
    for name in shipped_models():
        assert load_manifest(name).name == name


def test_verify_file(tmp_path):
    path = tmp_path / 'weights'
    path.write_bytes(b'good')
    good, bad = (hashlib.sha256(content).hexdigest() for content in (b'good', b'bad'))
    verify_file(path, good)
    path.write_bytes(b'bad')
    with pytest.raises(WeightsError, match=rf'\(3 bytes\) are damaged: sha256 is {bad}, expected {good}'):
        verify_file(path, good)
    verify_file(path, None)
    for sha256 in (good, None):
        with pytest.raises(WeightsError, match='cannot be read'):
            verify_file(tmp_path / 'none', sha256)


def test_weights_that_are_not_shipped(tmp_path):
    path = write(tmp_path, document() | {'weights': {'file': 'tiny.safetensors', 'sha256': None}})
    manifest = load_manifest(path)
    assert manifest.weights == WeightsFile(tmp_path / 'tiny.safetensors', None)
    expected = f"no weights are shipped for model 'tiny'; .*tools.export --model {path} --random-weights .*for .*tiny"
    with pytest.raises(WeightsError, match=expected):
        verify_weights(manifest)
    manifest.weights.path.write_bytes(b'good')
    verify_weights(manifest)
    # Whoever puts other weights there must not get what was made of the first.
    assert load_manifest(path).weights.sha256 == hashlib.sha256(b'good').hexdigest()


def test_what_names_a_model_on_a_command_line(tmp_path):
    assert load_manifest('fisa-s').argument == 'fisa-s'
    path = write(tmp_path, document())
    assert load_manifest(path).argument == str(path)


def test_a_manifest_with_sources(tmp_path):
    source = load_manifest(write(tmp_path, document() | sources())).sources['generator']
    assert source == ModelSource(
        'generator',
        'eomt',
        'someone/eomt.small',
        'main',
        (SourceFile('model.safetensors', 12, SHA256), SourceFile('config.json', None, None)),
        'MIT',
    )


def one_file(**changes):
    return [{'name': 'a.bin', 'size': None, 'sha256': None} | changes]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'sources': ['eomt']}, 'sources must be a mapping'),
        ({'sources': {'text_encoder': {}}}, 'sources.text_encoder is unknown, known are generator, classifier'),
        (
            sources(layout='open_clip'),
            "sources.generator.layout must be one of eomt, eomt_native, mask2former, got 'op",
        ),
        (sources(repo='eomt'), "sources.generator.repo must be owner/name, got 'eomt'"),
        (sources(repo='../../etc'), "sources.generator.repo must be owner/name, got '../../etc'"),
        (sources(revision=''), "sources.generator.revision must be text, got ''"),
        (sources(url='x'), 'sources.generator.url is unknown'),
        (sources(files=[]), 'sources.generator.files must be a list of files, got []'),
        (sources(files=['model.bin']), 'sources.generator.files[0] must be a mapping'),
        (
            sources(files=one_file(name='../a.bin')),
            "files[0].name must be a path inside the repository, got '../a.bin'",
        ),
        (sources(files=one_file(name='/a.bin')), "must be a path inside the repository, got '/a.bin'"),
        (sources(files=one_file(size=-1)), 'files[0].size must be a number of bytes or null, got -1'),
        (sources(files=one_file(size=True)), 'files[0].size must be a number of bytes or null, got True'),
        (sources(files=one_file(sha256='12')), "files[0].sha256 must be 64 hexadecimal digits, got '12'"),
        (sources(files=one_file() * 2), 'sources.generator.files has the same name twice'),
    ],
)
def test_sources_refused(tmp_path, content, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        load_manifest(write(tmp_path, document() | content))


def unshipped():
    weights = {'weights': {'file': 'tiny.safetensors', 'sha256': None}, 'classifier': {'type': 'open_clip'}}
    return document() | sources() | weights


def test_weights_made_of_sources_lie_with_the_models(tmp_path, monkeypatch):
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'models'))
    path = write(tmp_path, unshipped())
    made = tmp_path / 'models' / 'tiny' / 'tiny.safetensors'
    manifest = load_manifest(path)
    assert manifest.weights == WeightsFile(made, None)
    expected = f'to get them: python -m fisa_ros.tools.models download {path}; to try .*--random-weights'
    with pytest.raises(WeightsError, match=expected):
        verify_weights(manifest)
    made.parent.mkdir(parents=True)
    made.write_bytes(b'made')
    assert load_manifest(path).weights == WeightsFile(made, hashlib.sha256(b'made').hexdigest())
    # Tuned ones have a sum and lie beside their manifest.
    tuned = load_manifest(write(tmp_path, unshipped() | {'weights': {'file': 'tiny.safetensors', 'sha256': SHA256}}))
    assert tuned.weights == WeightsFile(tmp_path / 'tiny.safetensors', SHA256)
    write(tmp_path, unshipped())
    # What somebody puts beside the manifest goes first.
    (tmp_path / 'tiny.safetensors').write_bytes(b'mine')
    assert load_manifest(path).weights.path == tmp_path / 'tiny.safetensors'


def test_another_model_of_a_shipped_name_has_its_own_folder(tmp_path, monkeypatch):
    """It must neither take nor replace what was made for the shipped one."""
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'models'))
    shipped = load_manifest('fisa-s')
    content = yaml.safe_load(shipped.path.read_text())
    surer = {'thresholds': content['thresholds'] | {'score': 0.5}}
    checked = {'sources': {part: entry | {'licence': 'checked'} for part, entry in content['sources'].items()}}
    finer = {'classifier': content['classifier'] | {'merge_size': 320, 'temperature': 0.9}}
    for change in (surer, checked, finer):
        same = load_manifest(write(tmp_path, content | change, 'fisa-s.yaml'))
        assert same.folder == shipped.folder == tmp_path / 'models' / 'fisa-s'
        assert same.weights == shipped.weights
    content['sources']['generator']['revision'] = 'mine'
    folders = {shipped.folder}
    for change in ({}, {'classifier': content['classifier'] | {'image_size': 640}}):
        own = load_manifest(write(tmp_path, content | change, 'fisa-s.yaml'))
        assert own.weights.path == own.folder / 'fisa-s.safetensors'
        assert own.folder.parent == shipped.folder.parent
        folders.add(own.folder)
    assert len(folders) == 3


@pytest.fixture
def assembled(tmp_path, monkeypatch):
    """Weights of the model `tiny` that were put together and whose sum was noted."""
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'models'))
    path = load_manifest(write(tmp_path, unshipped())).weights.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b'made')
    note_sum(path, hashlib.sha256(b'made').hexdigest())
    return path


def test_assembled_weights_that_are_damaged_are_refused(tmp_path, assembled):
    manifest = load_manifest(tmp_path / 'tiny.yaml')
    verify_weights(manifest)
    assembled.write_bytes(b'mode')
    for model in (manifest, load_manifest(tmp_path / 'tiny.yaml')):
        with pytest.raises(
            WeightsError, match=r'\(4 bytes\) are damaged: .*anew: python -m \S+models download \S+tiny'
        ):
            verify_weights(model)
    # Of another length, they are somebody's own.
    assembled.write_bytes(b'other')
    verify_weights(load_manifest(tmp_path / 'tiny.yaml'))


def test_the_sum_of_a_copy_is_noted_once(tmp_path, assembled, monkeypatch):
    shutil.copytree(assembled.parents[1], tmp_path / 'copy')
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'copy'))
    copy = tmp_path / 'copy' / assembled.relative_to(tmp_path / 'models')
    assert noted_sum(copy) is None
    manifest = load_manifest(tmp_path / 'tiny.yaml')
    assert manifest.weights == WeightsFile(copy, hashlib.sha256(b'made').hexdigest())
    assert noted_sum(copy) == manifest.weights.sha256


def test_frozen_clip_does_not_pass_for_tuned(tmp_path, monkeypatch):
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'models'))
    expected = 'tiny is untuned: .*tools.train --recipe coco-tiny.* or use pooled-l'
    assert re.search(expected, untuned_note(load_manifest(write(tmp_path, unshipped()))) or '')
    pooled = load_manifest(write(tmp_path, unshipped() | {'classifier': {'type': 'pooled'}}))
    assert untuned_note(pooled) is None
    (tmp_path / 'tiny.safetensors').write_bytes(b'mine')
    assert untuned_note(load_manifest(write(tmp_path, unshipped()))) is None


def test_a_noted_sum_holds_for_the_very_file(tmp_path):
    path = tmp_path / 'weights'
    path.write_bytes(b'good')
    assert noted_sum(path) is None
    note_sum(path, SHA256)
    assert noted_sum(path) == SHA256
    moved = path.rename(tmp_path / 'moved')
    path.write_bytes(b'best')
    assert noted_sum(path) is None
    assert noted_sum(moved) is None
    (tmp_path / '.weights.sum.json').write_text('{')
    assert noted_sum(path) is None


def test_models_that_are_not_shipped_name_their_sources():
    for name in shipped_models():
        manifest = load_manifest(name)
        if (manifest.path.parent / manifest.weights.path.name).is_file():
            continue
        assert set(manifest.sources) == {'generator', 'classifier'}
        assert all(source.files and source.licence for source in manifest.sources.values())

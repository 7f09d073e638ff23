from dataclasses import replace
from hashlib import sha256
import shutil

import pytest
import torch
import yaml

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.evaluation.manifest_values import write_values
from fisa_ros.networks.build import build_network
from fisa_ros.networks.load import load_network
from fisa_ros.networks.weights import load_weights
from fisa_ros.training import stages
from fisa_ros.training.category_names import names_of_categories, novel_categories
from fisa_ros.training.loop import load_trained
from fisa_ros.training.recipe import load_recipe
from fisa_ros.training.settings import Phase, RunSettings
from fisa_ros.training.stages import load_clip, open_split, run_stage, write_untuned_model

from .small_fisa import SIZE, TINY_CLASSIFIER, TINY_GENERATOR

# As wide as the text encoder that is shipped.
CLASSIFIER = {**TINY_CLASSIFIER, 'text_dim': 384}


def recipe(stage, **options):
    phases = (Phase(SIZE, 2, 3, 1e-2),)
    shipped = load_recipe(f'tiny-{stage}')
    parts = {'generator': TINY_GENERATOR, 'classifier': CLASSIFIER, 'options': options}
    return replace(shipped, phases=phases, initial=None, precision='fp32', **parts)


def run(stage, data, out, **options):
    chosen = recipe(stage, **options)
    run_stage(chosen, data, out, RunSettings(1, None, 'fp32', chosen.settings()))
    return chosen


@pytest.fixture(scope='module')
def split_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('split') / 'split.yaml'
    path.write_text('base: [floor, chair]\nnovel: [ball]\n')
    return str(path)


@pytest.fixture(scope='module')
def trained(toy_data, tmp_path_factory, split_file):
    """All three stages, on a toy."""
    out = tmp_path_factory.mktemp('stages')
    with pytest.raises(DataError, match='run the generator stage first'):
        run('clip', toy_data, out)
    run('generator', toy_data, out)
    with pytest.raises(DataError, match='clip stage first'):
        run('fisa', toy_data, out, class_split=split_file)
    run('clip', toy_data, out, crops_per_image=3, patches_per_crop=4, frozen_stem_steps=3)
    run('fisa', toy_data, out, class_split=split_file, fiser_weight=1.0)
    return out


def test_the_stages_end_in_a_model_that_can_be_loaded(trained):
    manifest = load_manifest(trained / 'fisa' / 'tiny-fisa.yaml')
    network = build_network(manifest.generator, manifest.classifier)
    load_weights(network, manifest.weights.path)
    assert manifest.image_size_hw == (SIZE, SIZE)


def test_too_little_memory_beside_the_training_says_what_to_do(toy_data, tmp_path, monkeypatch):
    def overfull(_):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    monkeypatch.setattr(stages, 'build_generator', overfull)
    with pytest.raises(DataError, match=r'out of memory on .* before or after the training: close other'):
        run('generator', toy_data, tmp_path)


@pytest.mark.parametrize('stage', ['generator', 'clip'])
def test_masks_are_kept_for_one_stage_alone(toy_data, tmp_path, stage):
    chosen = recipe(stage)
    settings = RunSettings(1, None, 'fp32', chosen.settings(), mask_cache=tmp_path / 'cache')
    with pytest.raises(DataError, match=f'masks are kept for stage fisa alone, .* is of stage {stage}'):
        run_stage(chosen, toy_data, tmp_path / 'out', settings)
    assert not list(tmp_path.iterdir())


def test_what_calibration_found_outlives_the_finished_command(trained, toy_data, tmp_path, split_file):
    copied = tmp_path / 'stages'
    shutil.copytree(trained, copied)
    manifest = copied / 'fisa' / 'tiny-fisa.yaml'
    for score, weights in ((0.9, None), (0.25, b'other')):
        write_values(manifest, {'thresholds': {'score': 0.9}})
        if weights:
            known = load_manifest(manifest).weights.sha256
            manifest.write_text(manifest.read_text().replace(known, sha256(weights).hexdigest()))
        run('fisa', toy_data, copied, class_split=split_file, fiser_weight=1.0)
        assert load_manifest(manifest).thresholds.score == score


def test_each_stage_trains_its_own_part_only(trained):
    generator = load_trained(trained / 'generator')
    clip = load_trained(trained / 'clip')
    fisa = load_trained(trained / 'fisa')
    manifest = load_manifest(trained / 'fisa' / 'tiny-fisa.yaml')
    network = load_network(manifest).state_dict()
    for name, tensor in generator.items():
        assert torch.equal(network[f'generator.{name}'], written(tensor)), name
    for name, tensor in clip.items():
        if name.startswith('tower.visual.conv1.stem.'):
            assert torch.equal(tensor, generator[name.removeprefix('tower.visual.conv1.')]), name
        if name.startswith('tower.visual.'):
            assert torch.equal(network[name], written(tensor)), name
    assert not torch.equal(fisa['network.head.void_embedding'], clip['head.void_embedding'])
    assert fisa['network.tower.seve.0.gate'] != 0
    width = CLASSIFIER['width']
    clips_own = clip['tower.visual.transformer.resblocks.0.attn.in_proj_weight'][:width]
    assert not torch.equal(fisa['network.tower.mask_queries.0.weight'], clips_own)
    parameters = {name for name, _ in load_network(manifest).named_parameters()}
    saved = {name.removeprefix('network.') for name in fisa} & parameters
    assert all('mask_queries' in name or 'seve' in name or 'void' in name for name in saved), 'frozen ones are saved'


def written(tensor):
    """Return a tensor as a file of weights has it: matrices in half precision."""
    return tensor.half().to(tensor.dtype) if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def test_the_stem_of_clip_learns_after_its_frozen_steps(trained, toy_data, tmp_path):
    moved, still = 'tower.visual.conv1.stem.entry.0.weight', 'tower.visual.conv1.stem.entry.1.running_mean'
    before = load_trained(trained / 'clip')
    for steps, learns in ((3, False), (1, True)):
        out = tmp_path / str(steps)
        chosen = recipe('clip', frozen_stem_steps=steps, patches_per_crop=4)
        run_stage(chosen, toy_data, out, RunSettings(1, None, 'fp32', chosen.settings()), trained)
        after = load_trained(out / 'clip')
        assert torch.equal(after[moved], before[moved]) is not learns
        assert torch.equal(after[still], before[still]) is not learns


def test_finished_stages_are_not_taken_for_those_of_other_data(trained, write_split, tmp_path):
    write_split(tmp_path, 'train', 4)
    write_split(tmp_path, 'validation', 2)
    with pytest.raises(DataError, match='is of another recipe: data was'):
        run('generator', tmp_path, trained)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'prompt_templates': ()}, 'needs prompt_templates'),
        ({'prompt_templates': ('a photo',)}, "one {} each, got 'a photo'"),
        ({'classifier': {**CLASSIFIER, 'regions': 'tokens'}}, 'regions must be mask_tokens'),
        ({'phases': (Phase(96, 2, 3, 1e-2),)}, 'size of a phase must be the classifier.s 64, got 96'),
        ({'classifier': None}, 'stage fisa needs classifier'),
    ],
)
def test_recipes_that_would_break_later_are_refused_first(toy_data, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        run_stage(replace(recipe('fisa'), **changes), toy_data, tmp_path, RunSettings(1))


@pytest.fixture(scope='module')
def padded(trained, tmp_path_factory):
    """The trained model, said to have padded images."""
    folder = tmp_path_factory.mktemp('padded')
    shutil.copy(next((trained / 'fisa').glob('*.safetensors')), folder)
    written = next((trained / 'fisa').glob('*.yaml'))
    manifest = folder / written.name
    manifest.write_text(f'{written.read_text()}resize: pad\n')
    return manifest


def test_a_model_gets_its_images_as_the_one_that_it_starts_from(trained, padded, toy_data, tmp_path):
    chosen = replace(recipe('fisa'), initial=str(padded))
    # Its generator is that of the initial model.
    earlier = tmp_path / 'earlier'
    shutil.copytree(trained / 'clip', earlier / 'clip')
    run_stage(chosen, toy_data, tmp_path, RunSettings(1, None, 'fp32', chosen.settings()), earlier)
    (written,) = (tmp_path / 'fisa').glob('*.yaml')
    assert load_manifest(written).resize.kind == 'pad'
    assert load_manifest(next((trained / 'fisa').glob('*.yaml'))).resize.kind == 'stretch'
    # Gone on with under another geometry, it would be neither.
    document = padded.read_text()
    padded.write_text(document.replace('resize: pad\n', ''))
    with pytest.raises(DataError, match='resize'):
        run_stage(chosen, toy_data, tmp_path, RunSettings(1, None, 'fp32', chosen.settings()), earlier)
    padded.write_text(document)


def test_a_generator_of_images_that_came_in_another_way_is_refused(trained, padded, toy_data, tmp_path):
    chosen = replace(recipe('fisa'), initial=str(padded))
    message = r'generator was trained with resize: stretch, .*tiny-fisa.yaml has resize: pad'
    with pytest.raises(DataError, match=message):
        run_stage(chosen, toy_data, tmp_path, RunSettings(1), earlier=trained)
    with pytest.raises(DataError, match=message):
        write_untuned_model(tmp_path / 'untuned', chosen, trained, 'values')
    first = replace(recipe('generator'), initial=str(padded))
    run_stage(first, toy_data, tmp_path, RunSettings(1, None, 'fp32', first.settings()))
    shutil.copytree(trained / 'clip', tmp_path / 'clip')
    for stage in ('clip', 'fisa'):
        with pytest.raises(DataError, match=r'generator was trained with resize: pad, .* has resize: stretch'):
            run_stage(recipe(stage), toy_data, tmp_path / 'out', RunSettings(1), earlier=tmp_path)
    assert load_manifest(write_untuned_model(tmp_path / 'untuned', chosen, tmp_path, 'values')).resize.kind == 'pad'


def test_captioned_crops_are_of_stretched_images(padded, toy_data, tmp_path):
    with pytest.raises(DataError, match=r'stage clip takes images that are stretched, .* has resize: pad'):
        run_stage(replace(recipe('clip'), initial=str(padded)), toy_data, tmp_path, RunSettings(1))


def test_hidden_words_are_counted_for_base_categories(trained):
    assert load_trained(trained / 'fisa')['fiser.cycle.counts'].shape == (2,)


def test_an_untuned_model_is_clip_itself(trained, tmp_path):
    manifest = load_manifest(write_untuned_model(tmp_path, recipe('fisa'), trained, 'values'))
    network = build_network(manifest.generator, manifest.classifier)
    load_weights(network, manifest.weights.path)
    assert network.tower.regions == 'values'
    other = build_network(TINY_GENERATOR, CLASSIFIER)
    load_clip(other, trained / 'clip')
    image = torch.rand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(
        network.tower.image_embedding(image), other.tower.image_embedding(image), atol=2e-2, rtol=0
    )  # matrices are kept in half precision


def test_another_recipe_does_not_fit(trained, toy_data):
    wider = replace(recipe('fisa'), classifier={**CLASSIFIER, 'width': 64, 'heads': 4, 'stem_channels': [8, 16, 64]})
    with pytest.raises(DataError, match='clip does not fit this recipe'):
        run_stage(wider, toy_data, trained, RunSettings(1))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('base: [floor]\n', 'must hold the lists base and novel'),
        ('base: [floor, chair]\nnovel: [ball, cat]\n', r"see \['cat'\]"),
    ],
)
def test_class_splits_with_mistakes_are_refused(toy_dataset, tmp_path, text, message):
    path = tmp_path / 'split.yaml'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        novel_categories(str(path), toy_dataset)


def test_splits_and_synonyms(toy_dataset, split_file):
    assert novel_categories('', toy_dataset) == []
    assert novel_categories(split_file, toy_dataset) == [9]
    assert names_of_categories('', toy_dataset) == {3: ['floor'], 7: ['chair'], 9: ['ball']}
    assert names_of_categories('indoor_synonyms', toy_dataset)[9][:2] == ['ball', 'toy ball']


def test_missing_synonyms_are_named(toy_dataset, tmp_path):
    path = tmp_path / 'synonyms.yaml'
    path.write_text(yaml.safe_dump({'floor': {'training': []}}))
    with pytest.raises(DataError, match="no training synonyms for 'chair'"):
        names_of_categories(str(path), toy_dataset)


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r'panoptic_train\.json'):
        open_split(tmp_path, 'train')


def test_a_text_encoder_without_weights_is_not_trained_with(toy_data, tmp_path):
    chosen = replace(recipe('clip'), text_encoder={'type': 'clip', 'model': 'ViT-B-16'})
    message = 'text_encoder must bring its weights, as type sentence does; those of other types come with the initial'
    with pytest.raises(DataError, match=message):
        run_stage(chosen, toy_data, tmp_path, RunSettings(1, None, 'fp32', chosen.settings()))

from collections.abc import Mapping
from dataclasses import dataclass, field
import json
from typing import Any, Literal

import pytest
import yaml

from fisa_ros.core.errors import DataError
from fisa_ros.core.resources import share_dir
from fisa_ros.training.recipe import load_recipe, parse_options
from fisa_ros.training.settings import Phase

PHASE = {'size': 32, 'batch_size': 2, 'steps': 10, 'learning_rate': 0.1}
GOOD = {
    'stage': 'generator',
    'seed': 3,
    'generator': {'type': 'tiny', 'image_size': 320},
    'phases': [PHASE],
}


def write(tmp_path, **changes):
    path = tmp_path / 'r.yaml'
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return str(path)


def test_a_recipe_says_what_its_file_says(tmp_path):
    path = write(
        tmp_path, splits={'train': 'train2017'}, initial='fisa-tiny', prompt_templates=['a {}'], options={'x': 1}
    )
    recipe = load_recipe(path)
    assert recipe.phases == (Phase(32, 2, 10, 0.1),)
    assert recipe.splits == {'train': 'train2017', 'validation': 'validation'}
    assert (recipe.stage, recipe.seed, recipe.initial, recipe.where) == ('generator', 3, 'fisa-tiny', path)
    assert recipe.prompt_templates == ('a {}',)
    assert recipe.options == {'x': 1}
    assert recipe.classifier is None
    assert recipe.precision == 'fp32'


def test_settings_are_plain_and_do_not_depend_on_the_place(tmp_path):
    settings = load_recipe(write(tmp_path)).settings()
    (tmp_path / 'other').mkdir()
    assert load_recipe(write(tmp_path / 'other')).settings() == settings
    assert load_recipe(write(tmp_path, seed=4)).settings() != settings
    assert json.loads(json.dumps(settings))['phases'][0]['steps'] == 10


def test_steps_can_be_scaled(tmp_path):
    recipe = load_recipe(write(tmp_path, phases=[PHASE, {**PHASE, 'steps': 3000}]))
    assert [phase.steps for phase in recipe.scaled(0.01).phases] == [1, 30]
    assert recipe.scaled(1.0) == recipe
    with pytest.raises(DataError, match=r'above 0, got -1\.0'):
        recipe.scaled(-1.0)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'surprise': 1}, r"r\.yaml: unknown entries \['surprise'\], known are stage, seed, .*, options$"),
        ({'where': 'here'}, r"unknown entries \['where'\]"),
        ({'stage': 'bake'}, "stage must be one of clip, generator, fisa, got 'bake'"),
        ({'precision': 'fp8'}, "precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ({'seed': '3'}, "seed must be int, got '3'"),
        ({'seed': True}, 'seed must be int, got True'),
        ({'phases': []}, r'r\.yaml: phases must name at least one'),
        ({'phases': [{**PHASE, 'epochs': 2}]}, r"phases\[0\]: unknown entries \['epochs'\], known are size, .*"),
        ({'phases': [{'size': 32}]}, r"phases\[0\]: missing entries \['batch_size', 'steps', 'learning_rate'\]"),
        ({'phases': [{**PHASE, 'steps': 0}]}, r'r\.yaml: phases\[0\]: steps of a phase must be 1 or more, got 0'),
        ({'phases': [{**PHASE, 'learning_rate': '6e-4'}]}, "learning_rate must be float, got '6e-4'"),
        ({'splits': {'test': 'test'}}, r"unknown entries \['test'\] in splits, known are train, validation"),
        ({'splits': {'train': 1}}, r'splits\.train must be str, got 1'),
        ({'prompt_templates': 'a {}'}, r"prompt_templates must be tuple\[str, \.\.\.\], got 'a {}'"),
        ({'generator': ['tiny']}, 'generator must be .*, got'),
    ],
)  # fmt: skip
def test_recipes_with_mistakes_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_recipe(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('- a\n', r'r\.yaml: must be a mapping with the entries stage, .*got \[.a.\]'),
        ('', 'must be a mapping .*got None'),
        ('stage: [', 'cannot be read'),
        ('stage: clip\n1: 2\n', r"unknown entries \['1'\]"),
        ('stage: clip\n', r"missing entries \['seed', 'phases'\]"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path, text, message):
    path = tmp_path / 'r.yaml'
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_recipe(str(path))


def test_shipped_recipes_load_and_unknown_ones_list_them():
    names = [path.stem for path in (share_dir() / 'config' / 'recipes').glob('*.yaml')]
    assert {load_recipe(name).stage for name in names} == {'clip', 'generator', 'fisa'}
    with pytest.raises(DataError, match='shipped: coco-fisa-l, coco-fisa-s, tiny-clip, tiny-fisa'):
        load_recipe('tiny')


@dataclass(frozen=True, slots=True)
class Inner:
    width: int = 1


@dataclass(frozen=True, slots=True)
class Options:
    mode: Literal['a', 'b'] = 'a'
    scale: float = 1.0
    flag: bool = False
    names: list[str] = field(default_factory=list)
    size_hw: tuple[int, int] = (1, 2)
    inner: Inner | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    free: Any = None

    def __post_init__(self) -> None:
        if self.scale > 10:
            raise DataError(f'scale must be at most 10, got {self.scale}')


def test_options_are_converted_and_defaults_kept():
    given = {'mode': 'b', 'scale': 2, 'names': ['x'], 'size_hw': [3, 4], 'inner': {'width': 5}, 'weights': {'x': 1}}
    options = parse_options(Options, given, 'here')
    assert options == Options('b', 2.0, False, ['x'], (3, 4), Inner(5), {'x': 1.0}, None)
    assert type(options.scale) is type(options.weights['x']) is float
    assert parse_options(Options, {}, 'here') == Options()
    assert parse_options(Options, {'inner': None, 'free': [1]}, 'here') == Options(free=[1])


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'depth': 1}, r"^here: unknown entries \['depth'\], known are mode, scale, .*, free$"),
        ({'mode': 'c'}, "^here: mode must be one of a, b, got 'c'$"),
        ({'scale': '2'}, "^here: scale must be float, got '2'$"),
        ({'scale': True}, 'scale must be float, got True'),
        ({'scale': 11.0}, r'^here: scale must be at most 10, got 11\.0$'),
        ({'flag': 1}, 'flag must be bool, got 1'),
        ({'names': ['x', 2]}, r'names\[1\] must be str, got 2'),
        ({'size_hw': [1, 2, 3]}, r'size_hw must be tuple\[int, int\], got \[1, 2, 3\]'),
        ({'inner': {'height': 1}}, r"^here: inner: unknown entries \['height'\], known are width$"),
        ({'inner': 3}, 'inner: must be a mapping with the entries width, got 3'),
        ({'weights': {'x': 'y'}}, r"weights\.x must be float, got 'y'"),
        ([], r'^here: must be a mapping with the entries mode, .*, got \[\]$'),
    ],
)
def test_options_with_mistakes_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        parse_options(Options, given, 'here')

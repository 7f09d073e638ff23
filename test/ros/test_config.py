"""The parameters are declared once; what repeats them must agree."""

from dataclasses import asdict, fields
from pathlib import Path
import re

import pytest
import yaml

from fisa_ros.core.manifest import load_manifest, shipped_models
from fisa_ros.core.resources import share_dir
from fisa_ros.node.parameters import ParameterError, rules
from fisa_ros.node.segment_parameters import SegmentParameters, model_defaults

CONFIG = share_dir() / 'config' / 'fisa.yaml'
THRESHOLDS = ['score_threshold', 'mask_threshold', 'overlap_threshold', 'objectness_trust']


def test_the_config_file_holds_every_parameter_with_its_default() -> None:
    text = CONFIG.read_text()
    assert set(yaml.safe_load(text)['/**/segment']['ros__parameters']).isdisjoint(THRESHOLDS)
    uncommented = re.sub(rf'^(\s*)# ({"|".join(THRESHOLDS)}):', r'\1\2:', text, flags=re.MULTILINE)
    assert yaml.safe_load(uncommented)['/**/segment']['ros__parameters'] == {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(SegmentParameters()).items()
    }


def test_the_thresholds_are_those_of_the_default_model() -> None:
    assert SegmentParameters.model in shipped_models()
    assert SegmentParameters().thresholds == load_manifest(SegmentParameters.model).thresholds


@pytest.mark.parametrize('model', [*shipped_models(), 'unknown'])
def test_every_model_brings_its_thresholds(model) -> None:
    defaults = model_defaults(model)
    assert defaults.model == model
    if model != 'unknown':
        assert defaults.thresholds == load_manifest(model).thresholds


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ({'backend': 'foo'}, "parameter backend must be one of auto, torch, onnxruntime, tensorrt, got 'foo'"),
        ({'mask_encoding': 'rgb8'}, "parameter mask_encoding must be one of mono8, mono16, got 'rgb8'"),
        ({'score_threshold': 1.5}, r'parameter score_threshold must be in \[0.0, 1.0\], got 1.5'),
        ({'mask_threshold': float('nan')}, r'parameter mask_threshold must be in \[0.0, 1.0\], got nan'),
        ({'cameras': ()}, 'parameter cameras must name at least one camera'),
        ({'cameras': ('front', 'front')}, "parameter cameras has 'front' more than once"),
        ({'cameras': ('front door',)}, "parameter cameras: 'front door' is no name for a camera"),
        ({'cameras': ('/front',)}, "parameter cameras: '/front' is no name for a camera"),
        ({'cameras': ('segmentation',)}, "parameter cameras: 'segmentation' is the name of other topics"),
        ({'image_transport': 'theora'}, "parameter image_transport must be one of raw, compressed, got 'theora'"),
        ({'reduced_width': -1}, r'parameter reduced_width must be in \[0, 16384\], got -1'),
        ({'id_quarantine_s': -1.0}, r'parameter id_quarantine_s must be in \[0.0, inf\), got -1.0'),
    ],
)
def test_values_outside_the_rules_are_refused(values, text) -> None:
    with pytest.raises(ParameterError, match=text):
        SegmentParameters(**values)


def parameter_table() -> str:
    lines = ['| name | default | allowed | at run time | meaning |', '|---|---|---|---|---|']
    for name, rule in rules(SegmentParameters).items():
        default = getattr(SegmentParameters(), name)
        shown = str(list(default) if isinstance(default, tuple) else default)
        shown = shown.lower() if isinstance(default, bool) else shown
        limits = ', '.join(rule.choices)
        if rule.low is not None:
            limits = f'{rule.low:g} to {rule.high:g}' if rule.high is not None else f'{rule.low:g} or more'
        change = 'no' if rule.read_only else 'yes'
        lines.append(f'| `{name}` | {shown} | {limits} | {change} | {rule.description} |')
    return '\n'.join(lines)


def test_the_readme_lists_every_parameter() -> None:
    assert parameter_table() in (Path(__file__).parents[2] / 'README.md').read_text()


def test_every_parameter_says_what_it_is_for() -> None:
    described = rules(SegmentParameters)
    assert set(described) == {field.name for field in fields(SegmentParameters)}
    assert all(rule.description.endswith('.') for rule in described.values())

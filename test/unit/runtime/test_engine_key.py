from dataclasses import fields, is_dataclass, replace
import json

import pytest

from fisa_ros.core.errors import EngineError
from fisa_ros.runtime.engine_inputs import check_vocabulary_size, encoder_inputs, head_inputs
from fisa_ros.runtime.engine_key import (
    BuildOptions,
    EngineKey,
    default_options,
    external_data_sums,
    l4t_release,
    memory_class_gib,
)
from fisa_ros.runtime.graph_files import ENCODER_INPUTS, HEAD_INPUTS, GraphsDescription

from .engine_samples import KEY, MACHINE


def changed(value):
    """Yield the value with one thing in it changed, once for each thing."""
    if is_dataclass(value):
        for field in fields(value):
            for other in changed(getattr(value, field.name)):
                yield replace(value, **{field.name: other})
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            for other in changed(entry):
                yield (*value[:index], other, *value[index + 1 :])
        yield (*value, value[-1] if value else 'new')
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    else:
        yield value + 'x'


CHANGED_KEYS = list(changed(KEY))


def test_everything_in_a_key_changes_its_digest():
    digests = {key.digest() for key in CHANGED_KEYS}
    assert KEY.digest() not in digests
    assert len(digests) == len(CHANGED_KEYS)
    touched = {
        name
        for name in EngineKey.__dataclass_fields__
        for key in CHANGED_KEYS
        if getattr(key, name) != getattr(KEY, name)
    }
    assert touched == set(EngineKey.__dataclass_fields__)


def test_a_digest_names_a_folder_and_does_not_depend_on_the_object():
    assert KEY.digest() == replace(KEY).digest()
    assert len(KEY.digest()) == 64
    assert set(KEY.digest()) <= set('0123456789abcdef')


def test_fields_are_plain_json():
    shown = KEY.fields()
    assert json.loads(json.dumps(shown)) == shown
    assert shown['machine']['gpu_name'] == 'Orin (nvgpu)'
    assert shown['inputs'][0]['largest'] == [8192, 8, 4]


def test_all_files_that_may_hold_weights_count():
    files = {'encoder.onnx': '1', 'encoder.onnx.data': '2', 'odd': '3', 'tokenizer.json': '4', 'reference.npz': '5'}
    assert external_data_sums(files) == (('encoder.onnx.data', '2'), ('odd', '3'))


@pytest.mark.parametrize(
    ('gib', 'expected'), [(0.3, 1), (3.3, 4), (7.4, 8), (15.3, 16), (30.5, 32), (61.3, 64), (139, 128), (0, 1)]
)
def test_memory_classes(gib, expected):
    assert memory_class_gib(int(gib * (1 << 30))) == expected


def test_the_release_of_a_jetson(tmp_path):
    file = tmp_path / 'nv_tegra_release'
    assert l4t_release(file) == ''
    file.write_text('# R36 (release), REVISION: 4.3 \nmore\n')
    assert l4t_release(file) == '# R36 (release), REVISION: 4.3'


@pytest.mark.parametrize(
    ('gib', 'is_integrated', 'level'), [(8, True, 2), (4, True, 2), (16, True, 3), (8, False, 3), (64, True, 3)]
)
def test_small_boards_try_less(gib, is_integrated, level):
    machine = replace(MACHINE, memory_class_gib=gib, is_integrated=is_integrated)
    assert default_options(machine, allows_tf32=False) == BuildOptions(optimization_level=level, allows_tf32=False)


DESCRIPTION = GraphsDescription('toy', 's', (48, 64), 6, (12, 16), 384, 32, True, {}, {})


def test_inputs_are_those_of_the_graphs():
    encoder, head = encoder_inputs(DESCRIPTION), head_inputs(DESCRIPTION)
    assert tuple(entry.name for entry in encoder) == ENCODER_INPUTS
    assert tuple(entry.name for entry in head) == HEAD_INPUTS
    assert all(entry.is_fixed for entry in encoder)
    assert encoder[0].typical == (48, 64, 3)
    varying = {entry.name: (entry.smallest, entry.typical, entry.largest) for entry in head if not entry.is_fixed}
    assert varying == {
        'text_embeddings': ((1, 1, 384), (64, 2, 384), (8192, 9, 384)),
        'synonym_mask': ((1, 1), (64, 2), (8192, 9)),
        'is_thing': ((1,), (64,), (8192,)),
    }


@pytest.mark.parametrize(('classes', 'synonyms'), [(8193, 1), (1, 10)])
def test_too_many_words_are_refused(classes, synonyms):
    with pytest.raises(EngineError, match=rf'at most 8192 words of 9 names each, got {classes} of up to {synonyms}'):
        check_vocabulary_size(classes, synonyms)
    check_vocabulary_size(8192, 9)

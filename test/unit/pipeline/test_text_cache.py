from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import logging

import numpy as np
import pytest

from fisa_ros.pipeline.text_cache import TextEmbeddingCache, text_cache_folder

CAT = np.array([0.6, 0.8], np.float32)
DOG = np.array([1.0, 0.0], np.float32)


def as_lists(found):
    return {name: pytest.approx(list(embedding)) for name, embedding in found.items()}


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_what_was_put_is_found_by_the_next_process(tmp_path):
    TextEmbeddingCache(tmp_path / 'text', 2).put({'cat': CAT, '椅子': DOG})
    found = TextEmbeddingCache(tmp_path / 'text', 2).get(['cat', '椅子', 'cow'])
    assert as_lists(found) == {'cat': [0.6, 0.8], '椅子': [1.0, 0.0]}
    assert found['cat'].dtype == np.float32
    assert len(list((tmp_path / 'text').iterdir())) == 2, 'no temporary file is left'


def test_without_a_folder():
    cache = TextEmbeddingCache(None, 2)
    cache.put({'cat': CAT})
    assert list(cache.get(['cat', 'dog'])) == ['cat']


@pytest.mark.parametrize(
    'damage',
    [
        lambda content: b'',
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content + b'\0',
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes(len(content)),
    ],
)
def test_a_damaged_file_is_ignored_and_written_anew(tmp_path, caplog, damage):
    TextEmbeddingCache(tmp_path, 2).put({'cat': CAT})
    path = only_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    cache = TextEmbeddingCache(tmp_path, 2)
    assert cache.get(['cat']) == {}
    assert 'is damaged' in caplog.text
    cache.put({'cat': CAT})
    assert path.read_bytes() == content


def test_a_file_of_another_name_or_length_is_ignored(tmp_path):
    TextEmbeddingCache(tmp_path, 2).put({'cat': CAT})
    cat = only_file(tmp_path)
    TextEmbeddingCache(tmp_path, 2).put({'dog': DOG})
    dog = next(path for path in tmp_path.iterdir() if path != cat)
    dog.write_bytes(cat.read_bytes())
    assert TextEmbeddingCache(tmp_path, 2).get(['dog']) == {}
    assert TextEmbeddingCache(tmp_path, 3).get(['cat']) == {}


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path, caplog):
    (tmp_path / 'file').write_text('')
    cache = TextEmbeddingCache(tmp_path / 'file' / 'text', 2)
    with caplog.at_level(logging.WARNING):
        assert cache.get(['cat', 'dog']) == {}
        cache.put({'cat': CAT, 'dog': DOG})
        assert set(cache.get(['cat', 'dog'])) == {'cat', 'dog'}
    assert len(caplog.records) == 1
    assert 'embeddings stay in memory' in caplog.text


def test_a_full_disk_is_told_once_and_what_is_there_is_still_read(tmp_path, caplog, monkeypatch):
    TextEmbeddingCache(tmp_path, 2).put({'cat': CAT})

    def fail(**_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('tempfile.mkstemp', fail)
    cache = TextEmbeddingCache(tmp_path, 2)
    cache.put({'dog': DOG})
    cache.put({'cow': DOG})
    assert set(cache.get(['cat', 'dog', 'cow'])) == {'cat', 'dog', 'cow'}
    assert [record.getMessage().count('No space left') for record in caplog.records] == [1]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr('pathlib.Path.replace', fail)
    TextEmbeddingCache(tmp_path, 2).put({'cat': CAT})
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded():
    cache = TextEmbeddingCache(None, 2, max_in_memory=2)
    cache.put({'a': CAT, 'b': CAT})
    cache.get(['a'])
    cache.put({'c': CAT})
    assert set(cache.get(['a', 'b', 'c'])) == {'a', 'c'}


def test_more_names_than_memory_are_answered_from_disk(tmp_path):
    cache = TextEmbeddingCache(tmp_path, 2, max_in_memory=2)
    names = [f'w{number}' for number in range(10)]
    cache.put(dict.fromkeys(names, CAT))
    assert set(cache.get(names)) == set(names)


def test_many_writers_at_once(tmp_path):
    names = [f'w{number}' for number in range(20)]

    def work(_):
        cache = TextEmbeddingCache(tmp_path, 2)
        cache.put(dict.fromkeys(names, CAT))
        return len(cache.get(names))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(16))) == [20] * 16
    assert len(list(tmp_path.iterdir())) == 20


def test_the_folder_depends_on_what_shapes_an_embedding(tmp_path, color_manifest):
    folder = text_cache_folder(tmp_path, color_manifest)
    assert folder.parent == tmp_path / 'text'
    assert text_cache_folder(tmp_path, replace(color_manifest, description='x', licence='y')) == folder
    others = [
        replace(color_manifest, text_encoder={'type': 'other'}),
        replace(color_manifest, prompt_templates=('{}',)),
        replace(color_manifest, weights=replace(color_manifest.weights, sha256='1' * 64)),
    ]
    assert len({folder, *(text_cache_folder(tmp_path, other) for other in others)}) == 4

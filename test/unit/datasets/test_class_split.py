import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.class_split import ClassSplit, read_class_split


def test_both_lists_are_read(tmp_path):
    path = tmp_path / 'split.yaml'
    path.write_text('base: [cow, cat]\nnovel: [dog]\n')
    assert read_class_split(path) == ClassSplit(('cow', 'cat'), ('dog',))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'cannot be read'),
        ('base: [cat', 'cannot be read'),
        ('base: [cat]', 'must hold the lists base and novel'),
        ('{base: [cat], novel: [dog], test: []}', 'must hold the lists base and novel'),
        ('{base: cat, novel: [dog]}', 'base must be a list'),
        ('{base: [cat, dog], novel: [dog]}', 'names twice: dog'),
    ],
)
def test_files_that_are_no_split(tmp_path, text, message):
    path = tmp_path / 'split.yaml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_split(path)

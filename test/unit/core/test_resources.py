from pathlib import Path

from fisa_ros.core.resources import cache_dir, models_dir, share_dir


def test_share_dir_holds_the_packages_files():
    assert (share_dir() / 'config' / 'vocabularies' / 'stuff_words.yaml').is_file()


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    assert cache_dir() == Path('/somewhere/fisa_ros')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/robot')
    assert cache_dir() == Path('/home/robot/.cache/fisa_ros')


def test_models_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv('FISA_ROS_MODELS', '/disk/models')
    monkeypatch.setenv('XDG_DATA_HOME', '/somewhere')
    assert models_dir() == Path('/disk/models')
    monkeypatch.delenv('FISA_ROS_MODELS')
    assert models_dir() == Path('/somewhere/fisa_ros/models')
    monkeypatch.delenv('XDG_DATA_HOME')
    monkeypatch.setenv('HOME', '/home/robot')
    assert models_dir() == Path('/home/robot/.local/share/fisa_ros/models')

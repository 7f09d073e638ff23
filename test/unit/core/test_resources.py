from pathlib import Path

from fisa_ros.core.resources import cache_dir, share_dir


def test_share_dir_holds_the_packages_files():
    assert (share_dir() / 'config' / 'vocabularies' / 'stuff_words.yaml').is_file()


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    assert cache_dir() == Path('/somewhere/fisa_ros')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/robot')
    assert cache_dir() == Path('/home/robot/.cache/fisa_ros')

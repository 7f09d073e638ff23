"""Fetching the sources of a model from a hub on this machine that behaves as the true one, and from a folder."""

from contextlib import suppress
import errno
import hashlib
import json
import logging
import os
from pathlib import Path
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

from hub_server import BLOCK, COMMIT, Content, HubFile, HubServer, Text, proxy_server
import pytest
import yaml

from fisa_ros.core.errors import DownloadError
from fisa_ros.core.manifest import ModelManifest, load_manifest, verify_weights
from fisa_ros.core.model_sources import hub_endpoint
from fisa_ros.runtime import model_download, model_store
from fisa_ros.runtime.hub_files import Hub
from fisa_ros.runtime.model_download import fetch_sources
from fisa_ros.runtime.model_store import (
    RECORD_FILE,
    assembled_path,
    keep_weights,
    locked,
    read_record,
)
from fisa_ros.runtime.resumed_download import CHUNK_BYTES

ROOT = Path(__file__).absolute().parents[3]
WEIGHTS = 'someone/masks/model.safetensors'
CONFIG = 'someone/masks/config.json'
CLIP = 'other/clip/clip.bin'
SIZE = 3 * BLOCK + 5


@pytest.fixture
def hub(hub) -> HubServer:
    """A hub that has all files of the model."""
    hub.files |= {
        WEIGHTS: HubFile(Content(SIZE, 1)),
        CONFIG: HubFile(Text('{"size": 1}'), is_large=False),
        CLIP: HubFile(Content(2 * BLOCK, 2)),
    }
    return hub


def file_entry(name, size=None, sha256=None):
    return {'name': name, 'size': size, 'sha256': sha256}


def write_manifest(folder: Path, revision: str = 'main', **weights: object) -> Path:
    document = yaml.safe_load((ROOT / 'models' / 'fisa-s.yaml').read_text())
    document['name'] = 'toy'
    document['weights'] = {'file': 'toy.safetensors', 'sha256': None}
    document['sources'] = {
        'generator': {
            'layout': 'eomt',
            'repo': 'someone/masks',
            'revision': revision,
            'licence': 'MIT',
            'files': [file_entry('model.safetensors', **weights), file_entry('config.json')],
        },
        'classifier': {
            'layout': 'open_clip',
            'repo': 'other/clip',
            'revision': COMMIT,
            'licence': 'MIT',
            'files': [file_entry('clip.bin')],
        },
    }
    path = folder / 'toy.yaml'
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.fixture
def manifest(tmp_path) -> ModelManifest:
    return load_manifest(write_manifest(tmp_path))


def get(manifest: ModelManifest, timeout_s: float = 60.0, **options: object) -> None:
    client = Hub(hub_endpoint(), os.environ.get('HF_TOKEN'), pause_s=0.01, timeout_s=timeout_s)
    try:
        with locked(manifest):
            fetch_sources(manifest, client, **options)
    finally:
        client.close()


def sources(manifest: ModelManifest) -> Path:
    return manifest.folder / 'sources'


def parts(manifest: ModelManifest) -> list[Path]:
    return sorted(sources(manifest).rglob('.*.part'))


def is_whole(manifest: ModelManifest) -> bool:
    expected = {
        'generator/model.safetensors': Content(SIZE, 1).read(),
        'generator/config.json': b'{"size": 1}',
        'classifier/clip.bin': Content(2 * BLOCK, 2).read(),
    }
    found = {str(p.relative_to(sources(manifest))): p.read_bytes() for p in sources(manifest).rglob('*') if p.is_file()}
    return found == expected


def test_files_come_and_are_recorded(hub, manifest):
    get(manifest)
    assert is_whole(manifest)
    record = json.loads((manifest.folder / RECORD_FILE).read_text())
    assert record['model'] == 'toy'
    weights = record['files']['generator/model.safetensors']
    assert weights['url'] == f'{os.environ["HF_ENDPOINT"]}/someone/masks/resolve/{COMMIT}/model.safetensors'
    assert weights['origin'] == 'someone/masks@main/model.safetensors'
    assert (weights['revision'], weights['size'], weights['sha256']) == (COMMIT, SIZE, Content(SIZE, 1).sha256)
    assert record['files']['generator/config.json']['sha256'] == hashlib.sha256(b'{"size": 1}').hexdigest()
    hub.requests.clear()
    get(manifest)
    assert not hub.requests


@pytest.mark.parametrize('damage', ['missing', 'short', 'flipped', 'record'])
def test_what_is_missing_or_damaged_is_fetched_again(hub, manifest, damage):
    get(manifest)
    hub.requests.clear()
    path = sources(manifest) / 'generator' / 'model.safetensors'
    content = path.read_bytes()
    if damage == 'missing':
        path.unlink()
    elif damage == 'short':
        path.write_bytes(content[:-1])
    elif damage == 'flipped':
        path.write_bytes(content[:-1] + b'!')
    else:
        (manifest.folder / RECORD_FILE).write_text('{"format": 1')
    get(manifest)
    assert is_whole(manifest)
    assert len(hub.asked('files')) == (2 if damage == 'record' else 1)


def test_a_file_with_the_sum_of_the_manifest_needs_no_record(hub, tmp_path):
    manifest = load_manifest(write_manifest(tmp_path, sha256=Content(SIZE, 1).sha256))
    get(manifest)
    (manifest.folder / RECORD_FILE).unlink()
    hub.requests.clear()
    get(manifest)
    assert [request.path.partition('?')[0] for request in hub.asked('files')] == [f'/{CLIP}']
    assert set(read_record(manifest).files) == {
        'generator/model.safetensors',
        'generator/config.json',
        'classifier/clip.bin',
    }


def test_a_connection_that_breaks_is_resumed(hub, manifest, caplog):
    caplog.set_level(logging.INFO, 'fisa_ros.models')
    hub.files[WEIGHTS].cuts = [BLOCK + CHUNK_BYTES, CHUNK_BYTES + 7, BLOCK]
    get(manifest)
    assert is_whole(manifest)
    first = BLOCK + CHUNK_BYTES
    starts = [first, first + CHUNK_BYTES, first + CHUNK_BYTES + BLOCK]
    assert hub.ranges()[:4] == [None, *(f'bytes={start}-' for start in starts)]
    assert f'someone/masks/model.safetensors broke after {first} bytes; try 2 of 5' in caplog.text


def test_a_server_that_falls_silent_is_asked_again(hub, manifest):
    hub.files[WEIGHTS].pause_s = 2.5
    get(manifest, timeout_s=2.0)
    assert is_whole(manifest)
    assert hub.ranges()[:4] == [None, *(f'bytes={start * BLOCK}-' for start in (1, 2, 3))]


def test_a_server_without_ranges_sends_all_again(hub, manifest):
    hub.files[WEIGHTS].cuts = [BLOCK]
    hub.files[WEIGHTS].ignores_range = True
    get(manifest)
    assert is_whole(manifest)


def test_a_range_that_is_refused_is_begun_anew(hub, manifest):
    hub.files[WEIGHTS].cuts = [BLOCK]
    hub.files[WEIGHTS].refuses_range = True
    get(manifest)
    assert is_whole(manifest)
    assert hub.ranges()[:3] == [None, f'bytes={BLOCK}-', None]


def test_one_that_breaks_without_end_says_that_the_same_command_resumes(hub, manifest):
    hub.files[WEIGHTS].cuts = [BLOCK, *[0] * 5]
    with pytest.raises(DownloadError, match='broke after 1048576 bytes; the same command goes on where this one stop'):
        get(manifest)
    (part,) = parts(manifest)
    assert part.stat().st_size == BLOCK
    assert not (sources(manifest) / 'generator' / 'model.safetensors').exists()
    hub.requests.clear()
    get(manifest)
    assert hub.ranges()[0] == f'bytes={BLOCK}-'
    assert is_whole(manifest)


def test_a_part_of_another_version_is_not_continued(hub, manifest):
    hub.files[WEIGHTS].cuts = [BLOCK, *[0] * 5]
    with pytest.raises(DownloadError):
        get(manifest)
    hub.files[WEIGHTS] = HubFile(Content(SIZE, 7))
    get(manifest)
    assert (sources(manifest) / 'generator' / 'model.safetensors').read_bytes() == Content(SIZE, 7).read()
    assert not parts(manifest)


def test_another_commit_with_the_same_file_goes_on_with_its_part(hub, manifest):
    hub.files[WEIGHTS].cuts = [BLOCK, *[0] * 5]
    with pytest.raises(DownloadError):
        get(manifest)
    hub.commit = 'd' * 40
    hub.requests.clear()
    get(manifest)
    assert is_whole(manifest)
    assert hub.ranges()[0] == f'bytes={BLOCK}-'
    assert read_record(manifest).files['generator/model.safetensors'].revision == 'd' * 40


def test_content_is_asked_for_at_the_commit_that_was_described(hub, manifest):
    get(manifest)
    described = {request.path for request in hub.asked('hub', 'HEAD')}
    assert described >= {'/someone/masks/resolve/main/model.safetensors', '/someone/masks/resolve/main/config.json'}
    assert all(f'/resolve/{COMMIT}/' in request.path for request in hub.asked('hub'))


def test_a_file_that_changes_on_the_way_is_begun_anew(hub, manifest):
    hub.files[CONFIG] = HubFile(Content(SIZE, 1), is_large=False, cuts=[BLOCK], later=Content(SIZE, 7))
    get(manifest)
    assert (sources(manifest) / 'generator' / 'config.json').read_bytes() == Content(SIZE, 7).read()


@pytest.mark.parametrize('cut', [{'refuses_range': True}, {'ignores_range': True}])
def test_the_same_beginning_again_and_again_is_no_progress(hub, manifest, cut):
    hub.files[WEIGHTS] = HubFile(Content(SIZE, 1), cuts=[2 * BLOCK, BLOCK] * 8, **cut)
    with pytest.raises(DownloadError, match=r'broke after \d+ bytes; the same command goes on'):
        get(manifest)
    assert len(hub.asked('files')) <= 10


def test_a_length_of_zero_is_not_believed(hub, manifest):
    hub.files[CONFIG].has_length = False
    get(manifest)
    assert is_whole(manifest)
    hub.files[CONFIG] = HubFile(Text(''), is_large=False)
    with pytest.raises(DownloadError, match=f'{CONFIG} came empty from http'):
        get(manifest, force=True)
    assert (sources(manifest) / 'generator' / 'config.json').read_bytes() == b'{"size": 1}'


def test_a_server_that_is_busy_is_asked_again(hub, manifest):
    hub.files[WEIGHTS].failures = 3
    get(manifest)
    assert is_whole(manifest)
    hub.files[CONFIG].failures = 100
    with pytest.raises(DownloadError, match='answers HTTP 503 Service Unavailable; the same command'):
        get(manifest, force=True)


@pytest.mark.parametrize('seed', [5, 6])
def test_other_content_than_the_hub_told_is_removed(hub, manifest, seed):
    hub.files[WEIGHTS].sent = Content(SIZE, seed)
    told, came = Content(SIZE, 1).sha256, Content(SIZE, seed).sha256
    with pytest.raises(DownloadError, match=f'came damaged and was removed: its sha256 is {came}.* told {told}'):
        get(manifest)
    assert not [path for path in sources(manifest).rglob('*') if path.is_file()]
    hub.files[WEIGHTS].sent = None
    get(manifest)
    assert is_whole(manifest)


def test_a_file_longer_than_it_was_told_is_not_kept(hub, manifest):
    hub.files[WEIGHTS].sent = Content(SIZE + 1, 1)
    with pytest.raises(DownloadError, match=f'is longer than the {SIZE} bytes that were told'):
        get(manifest)
    assert [part.stat().st_size for part in parts(manifest)] == [0]


@pytest.mark.parametrize(
    ('announced', 'text'),
    [
        ({'size': 5}, f'is not what the manifest names: it has {SIZE} bytes instead of 5'),
        ({'sha256': 'ab' * 32}, f'its sha256 is {Content(SIZE, 1).sha256} instead of {"ab" * 32}'),
    ],
)
@pytest.mark.parametrize('force', [False, True])
@pytest.mark.parametrize('is_told', [False, True])
def test_the_manifest_has_the_last_word(hub, tmp_path, announced, text, force, is_told):
    if not is_told:
        hub.files[WEIGHTS].hides = ('X_Linked_Size', 'X_Linked_ETag')
    manifest = load_manifest(write_manifest(tmp_path, **announced))
    with pytest.raises(DownloadError, match=f'{WEIGHTS} .*{text}'):
        get(manifest, force=force)
    assert not [path for path in sources(manifest).rglob('*') if path.is_file()]
    # What can be told beforehand is.
    assert bool(hub.asked('files')) is not (is_told or 'size' in announced)


@pytest.mark.parametrize('name', [WEIGHTS, CONFIG])
def test_a_file_that_changed_is_taken_only_when_told_to(hub, manifest, name):
    get(manifest)
    path = sources(manifest) / 'generator' / name.rsplit('/', 1)[1]
    path.unlink()
    first = hub.files[name]
    hub.files[name] = HubFile(Content(8, 9), is_large=first.is_large)
    with pytest.raises(DownloadError, match=f'{name} is another file than on 20.*: its sha256 is .*, it was .*--force'):
        get(manifest)
    assert not path.exists()
    get(manifest, force=True)
    assert path.read_bytes() == Content(8, 9).read()
    assert read_record(manifest).files[f'generator/{path.name}'].sha256 == Content(8, 9).sha256


def test_another_revision_may_have_another_file(hub, manifest, tmp_path):
    get(manifest)
    hub.files[WEIGHTS] = HubFile(Content(8, 9))
    get(load_manifest(write_manifest(tmp_path, revision=COMMIT)))
    assert (sources(manifest) / 'generator' / 'model.safetensors').read_bytes() == Content(8, 9).read()


def test_a_mirror_that_tells_little_will_do(hub, manifest):
    hub.files[WEIGHTS].hides = ('X_Linked_Size', 'X_Linked_ETag', 'X_Repo_Commit')
    hub.files[WEIGHTS].cuts = [BLOCK]
    get(manifest)
    assert is_whole(manifest)
    assert read_record(manifest).files['generator/model.safetensors'].revision is None


def test_a_repository_that_was_renamed_is_found(hub, manifest):
    hub.renamed['someone/masks'] = 'someone/new'
    hub.files |= {name.replace('masks', 'new'): hub.files.pop(name) for name in (WEIGHTS, CONFIG)}
    get(manifest)
    assert is_whole(manifest)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({'files': {}}, r'refuses someone/masks/model.safetensors \(HTTP 401 RepoNotFound\)'),
        (
            {'revision': 'gone'},
            r'someone/masks/model.safetensors is not on http.*\(HTTP 404 RevisionNotFound\).*--from',
        ),
        (
            {'missing': WEIGHTS},
            r'someone/masks/model.safetensors is not on http.*\(HTTP 404 EntryNotFound\).*--from DIR',
        ),
        ({'token': 'x'}, r'\(HTTP 401 GatedRepo\).*accept the terms at http\S+/someone/masks and set HF_TOKEN'),
        ({'token': 'x', 'shown': 'y'}, r'\(HTTP 403 GatedRepo\): the token of HF_TOKEN does not let read it'),
        ({'status': 418}, 'answers HTTP 418 for someone/masks/model.safetensors; check HF_ENDPOINT'),
    ],
)
def test_refusals_say_what_to_do(hub, tmp_path, monkeypatch, change, text):
    hub.files = change.get('files', hub.files)
    hub.files.pop(change.get('missing'), None)
    hub.token = change.get('token')
    if 'shown' in change:
        monkeypatch.setenv('HF_TOKEN', change['shown'])
    if 'status' in change:
        hub.files[WEIGHTS].status = change['status']
    manifest = load_manifest(write_manifest(tmp_path, change.get('revision', 'main')))
    with pytest.raises(DownloadError, match=text):
        get(manifest)
    assert not hub.asked('files')


def test_the_token_is_shown_to_the_hub_alone(hub, manifest, monkeypatch):
    hub.token = 'secret'
    monkeypatch.setenv('HF_TOKEN', 'secret')
    get(manifest)
    assert is_whole(manifest)
    assert {request.headers['Authorization'] for request in hub.asked('hub')} == {'Bearer secret'}
    assert hub.asked('files')
    assert not [request for request in hub.asked('files') if 'Authorization' in request.headers]


def test_a_login_of_netrc_does_not_take_the_place_of_the_token(hub, manifest, monkeypatch, tmp_path):
    (tmp_path / 'netrc').write_text('machine 127.0.0.1 login someone password wrong\n')
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    get(manifest)
    assert all(request.headers['Authorization'].startswith('Basic ') for request in hub.asked('hub', 'HEAD'))
    hub.requests.clear()
    hub.token = 'secret'
    monkeypatch.setenv('HF_TOKEN', 'secret')
    with proxy_server(hub) as proxy:
        monkeypatch.setenv('HTTP_PROXY', proxy)
        get(manifest, force=True)
    assert {request.headers['Authorization'] for request in hub.asked('hub')} == {'Bearer secret'}
    assert not [request for request in hub.asked('files') if 'Authorization' in request.headers]
    assert len(hub.asked('proxy')) == len(hub.asked('hub')) + len(hub.asked('files'))


def test_a_mirror_with_a_login_is_shown_no_token(hub, manifest, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', os.environ['HF_ENDPOINT'].replace('//', '//someone:word@'))
    monkeypatch.setenv('HF_TOKEN', 'secret')
    get(manifest)
    assert is_whole(manifest)
    assert {request.headers['Authorization'] for request in hub.asked('hub')} == {'Basic c29tZW9uZTp3b3Jk'}
    assert not [request for request in hub.asked('files') if 'Authorization' in request.headers]


def test_no_network(hub, manifest, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    with pytest.raises(
        DownloadError, match=r'127.0.0.1:9 cannot be reached: .*refused.*HF_ENDPOINT.*--from DIR'
    ) as told:
        get(manifest)
    assert ' at 0x' not in str(told.value)
    monkeypatch.setenv('HF_ENDPOINT', 'nowhere')
    with pytest.raises(DownloadError, match=r'cannot be asked for: Invalid URL.*check HF_ENDPOINT'):
        get(manifest)


@pytest.fixture
def tls_server(tmp_path):
    """Serve TLS with a certificate that nobody trusts; `breaks` is how many connections it closes first."""
    key, certificate = tmp_path / 'key.pem', tmp_path / 'certificate.pem'
    subprocess.run(
        ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1', '-keyout', key, '-out',
         certificate], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    found = SimpleNamespace(breaks=0, connections=0)

    def serve(listener):
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                found.connections += 1
                with connection, suppress(OSError):
                    if found.connections <= found.breaks:
                        connection.recv(4096)
                        connection.shutdown(socket.SHUT_RDWR)
                    else:
                        context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(('127.0.0.1', 0)) as listener:
        found.url = f'https://127.0.0.1:{listener.getsockname()[1]}'
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield found
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_certificate_is_refused_at_once_and_a_connection_that_breaks_is_not(tls_server, manifest, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', tls_server.url)
    tls_server.breaks = 2
    with pytest.raises(DownloadError, match=r'certificate of https://127\S+ is not trusted: .*REQUESTS_CA_BUNDLE'):
        get(manifest, timeout_s=10.0)
    assert tls_server.connections == 3
    tls_server.breaks = 100
    with pytest.raises(DownloadError, match=r'127\.0\.0\.1:\d+ cannot be reached: .*the same command goes on'):
        get(manifest, timeout_s=10.0)
    assert tls_server.connections == 8


def test_a_proxy_is_used_unless_it_is_not_to_be(hub, manifest, monkeypatch):
    with proxy_server(hub) as proxy:
        monkeypatch.setenv('HTTP_PROXY', proxy)
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        get(manifest)
        assert not hub.asked('proxy')
        monkeypatch.delenv('NO_PROXY')
        get(manifest, force=True)
        assert is_whole(manifest)
        assert {request.path for request in hub.asked('proxy')} >= {
            f'{os.environ["HF_ENDPOINT"]}/someone/masks/resolve/{COMMIT}/{name}'
            for name in ('model.safetensors', 'config.json')
        }
        monkeypatch.setenv('HTTPS_PROXY', proxy)
        monkeypatch.setenv('HF_ENDPOINT', 'https://huggingface.co')
        with pytest.raises(
            DownloadError, match=r'the proxy cannot be used: .*502.*check HTTPS_PROXY, HTTP_PROXY and NO'
        ):
            get(manifest, force=True)
        assert hub.asked('proxy', 'CONNECT')[0].path == 'huggingface.co:443'


def test_no_space_is_told_before_the_first_byte(hub, manifest, small_disk, monkeypatch):
    monkeypatch.setenv('FISA_ROS_MODELS', str(small_disk))
    with pytest.raises(
        DownloadError, match=r'toy needs 0\.01 GB in .*, 0\.01 GB of them to fetch, and 0\.00 GB are free'
    ):
        get(manifest)
    assert not hub.asked('files')


def test_space_for_new_weights_is_needed_beside_the_old_ones(hub, manifest, monkeypatch):
    get(manifest)
    made = manifest.folder / 'made'
    made.write_bytes(b'made')
    keep_weights(manifest, read_record(manifest), made)
    assert assembled_path(manifest).read_bytes() == b'made'
    whole = SIZE + 2 * BLOCK + 11
    monkeypatch.setattr(model_download.shutil, 'disk_usage', lambda _: SimpleNamespace(free=(64 << 20) + whole))
    get(manifest)
    with pytest.raises(DownloadError, match=r'toy needs 0\.01 GB in .*, 0\.01 GB of them to fetch'):
        get(manifest, force=True)
    (sources(manifest) / 'generator' / 'config.json').unlink()
    with pytest.raises(DownloadError, match=r'toy needs 0\.01 GB in .*, 0\.00 GB of them to fetch'):
        get(manifest)


def test_new_weights_do_not_pass_for_damaged_old_ones(hub, manifest, monkeypatch):
    """Of the same length, and without space left for a note."""
    get(manifest)
    made = manifest.folder / 'made'
    made.write_bytes(b'old')
    keep_weights(manifest, read_record(manifest), made)
    made.write_bytes(b'new')

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(model_store, 'note_sum', full)
    with pytest.raises(OSError, match='No space'):
        keep_weights(manifest, read_record(manifest), made)
    assert assembled_path(manifest).read_bytes() == b'new'
    verify_weights(load_manifest(manifest.path))


def test_what_the_manifest_does_not_list_is_removed(hub, manifest, tmp_path):
    get(manifest)
    path = write_manifest(tmp_path)
    document = yaml.safe_load(path.read_text())
    document['sources']['generator']['files'].pop()
    path.write_text(yaml.safe_dump(document))
    (sources(manifest) / 'generator' / 'deep').mkdir()
    (sources(manifest) / 'generator' / 'deep' / 'old.bin').write_bytes(b'old')
    get(load_manifest(path))
    left = {path.name for path in sources(manifest).rglob('*') if path.is_file()}
    assert left == {'model.safetensors', 'clip.bin'}
    assert set(read_record(manifest).files) == {'generator/model.safetensors', 'classifier/clip.bin'}


def test_a_disk_that_fills_up_keeps_what_is_there(hub, manifest, small_disk, monkeypatch):
    monkeypatch.setenv('FISA_ROS_MODELS', str(small_disk))
    monkeypatch.setattr(model_download.shutil, 'disk_usage', lambda _: SimpleNamespace(free=10**12))
    with pytest.raises(DownloadError, match=r'no space is left for .*: make some, and the same command goes on'):
        get(manifest)
    (part,) = parts(manifest)
    assert 0 < part.stat().st_size <= 256 << 10
    assert Content(SIZE, 1).read().startswith(part.read_bytes())


def test_a_folder_that_cannot_be_made(hub, manifest, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('FISA_ROS_MODELS', str(tmp_path / 'file'))
    with pytest.raises(DownloadError, match=r'file/toy cannot be made or written: .*FISA_ROS_MODELS names another'):
        get(manifest)


SCRIPT = """
import logging, sys
from fisa_ros.core.manifest import load_manifest
from fisa_ros.runtime.hub_files import Hub
from fisa_ros.runtime.model_download import fetch_sources
from fisa_ros.runtime.model_store import locked
logging.basicConfig(level=logging.INFO)
assert 'torch' not in sys.modules and 'rclpy' not in sys.modules
manifest = load_manifest(sys.argv[1])
with locked(manifest):
    fetch_sources(manifest, Hub.from_environment())
"""


def start(manifest: ModelManifest) -> 'subprocess.Popen[str]':
    return subprocess.Popen(
        [sys.executable, '-c', SCRIPT, str(manifest.path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_process_is_resumed_by_the_next(hub, manifest, number):
    hub.files[WEIGHTS].pause_s = 0.3
    process = start(manifest)
    deadline = time.monotonic() + 300.0
    while sum(part.stat().st_size for part in parts(manifest)) < BLOCK:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    (part,) = parts(manifest)
    begun = part.stat().st_size
    hub.files[WEIGHTS].pause_s = 0.0
    hub.requests.clear()
    get(manifest)
    assert is_whole(manifest)
    assert hub.ranges()[0] == f'bytes={begun}-'


def test_what_is_there_stays_until_all_new_files_are_here(hub, manifest):
    get(manifest)
    hub.files[WEIGHTS] = HubFile(Content(SIZE, 7))
    hub.files[CLIP] = HubFile(Content(2 * BLOCK, 8), cuts=[BLOCK, *[0] * 4])
    record = read_record(manifest)
    before = {path: path.read_bytes() for path in sources(manifest).rglob('*') if path.is_file()}
    with pytest.raises(DownloadError, match=r'clip\.bin broke after 1048576 bytes'):
        get(manifest, force=True)
    assert {path: path.read_bytes() for path in before} == before
    assert read_record(manifest) == record
    hub.requests.clear()
    get(manifest, force=True)
    assert hub.ranges() == [f'bytes={BLOCK}-']
    assert (sources(manifest) / 'generator' / 'model.safetensors').read_bytes() == Content(SIZE, 7).read()
    assert (sources(manifest) / 'classifier' / 'clip.bin').read_bytes() == Content(2 * BLOCK, 8).read()
    assert not parts(manifest)


def test_two_processes_at_once_fetch_each_file_once(hub, manifest):
    hub.files[WEIGHTS].pause_s = 0.3
    processes = [start(manifest) for _ in range(2)]
    outputs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert is_whole(manifest)
    assert len(hub.asked('files')) == 2


def write_mirror(folder: Path, *, by_repo: bool) -> Path:
    for name, content in (
        (WEIGHTS, Content(SIZE, 1).read()),
        (CONFIG, b'{"size": 1}'),
        (CLIP, Content(2 * BLOCK, 2).read()),
    ):
        path = folder / (name if by_repo else name.rsplit('/', 1)[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize('has_record', [False, True])
def test_copies_are_kept_as_they_come(hub, tmp_path, monkeypatch, has_record):
    """From another disk, where they take time and space."""
    mirror = write_mirror(tmp_path / 'mirror', by_repo=True)
    path = write_manifest(tmp_path, sha256=Content(SIZE, 1).sha256 if has_record else None)
    manifest = load_manifest(path)
    copied, copyfile = [], shutil.copyfile

    def copy(source, target):
        copied.append(Path(source).name)
        if Path(source).name == 'clip.bin':
            Path(target).write_bytes(b'begun')
            raise OSError(errno.ENOSPC, 'No space left on device')
        return copyfile(source, target)

    def refuse(*_):
        raise OSError(errno.EXDEV, 'Invalid cross-device link')

    monkeypatch.setattr(model_download.os, 'link', refuse)
    with monkeypatch.context() as patch:
        patch.setattr(model_download.shutil, 'copyfile', copy)
        with pytest.raises(DownloadError, match=r'no space is left for .*clip\.bin'):
            get(manifest, mirror=mirror)
        assert copied == ['model.safetensors', 'config.json', 'clip.bin']
        left = {path.name for path in sources(manifest).rglob('*') if path.is_file()}
        assert left == {'model.safetensors', 'config.json', '.clip.bin.copy.part'}
        copied.clear()
        # What was begun takes no space when that is counted.
        counted = []
        usage = lambda folder: counted.append(parts(manifest)) or SimpleNamespace(free=10**12)  # noqa: E731
        patch.setattr(model_download.shutil, 'disk_usage', usage)
        with pytest.raises(DownloadError, match='no space is left'):
            get(manifest, mirror=mirror)
        assert copied == ['clip.bin']
        assert counted == [[]]
    get(manifest, mirror=mirror)
    assert is_whole(manifest)


@pytest.mark.parametrize('by_repo', [False, True])
def test_a_folder_serves_without_the_hub(hub, manifest, tmp_path, by_repo):
    mirror = write_mirror(tmp_path / 'mirror', by_repo=by_repo)
    get(manifest, mirror=mirror)
    assert is_whole(manifest)
    assert not hub.requests
    found = read_record(manifest).files['classifier/clip.bin']
    assert found.url == (mirror / ('other/clip' if by_repo else '') / 'clip.bin').as_uri()
    get(manifest, mirror=mirror, force=True)
    assert is_whole(manifest)


def test_a_name_that_two_sources_have_needs_its_repository(hub, tmp_path):
    mirror = write_mirror(tmp_path / 'mirror', by_repo=False)
    path = write_manifest(tmp_path)
    path.write_text(path.read_text().replace('clip.bin', 'config.json'))
    manifest = load_manifest(path)
    expected = f'--from: {mirror}/someone/masks/config.json; {mirror}/other/clip/config.json'
    with pytest.raises(DownloadError, match=re.escape(expected)):
        get(manifest, mirror=mirror)


def test_files_of_a_folder_are_checked_like_others(hub, tmp_path):
    mirror = write_mirror(tmp_path / 'mirror', by_repo=True)
    manifest = load_manifest(write_manifest(tmp_path, sha256='ab' * 32))
    with pytest.raises(DownloadError, match=f'is not what the manifest names: its sha256 is .* instead of {"ab" * 32}'):
        get(manifest, mirror=mirror)
    assert not [path for path in sources(manifest).rglob('*') if path.is_file()]
    manifest = load_manifest(write_manifest(tmp_path))
    get(manifest, mirror=mirror)
    (sources(manifest) / 'classifier' / 'clip.bin').unlink()
    (mirror / CLIP).unlink()
    (mirror / CLIP).write_bytes(b'other')
    with pytest.raises(DownloadError, match=r'other/clip/clip.bin is another file than on'):
        get(manifest, mirror=mirror)


def test_a_folder_that_lacks_files(hub, manifest, tmp_path):
    with pytest.raises(DownloadError, match=r'--from .*nowhere is not a folder'):
        get(manifest, mirror=tmp_path / 'nowhere')
    mirror = write_mirror(tmp_path / 'mirror', by_repo=True)
    (mirror / CONFIG).unlink()
    (mirror / CLIP).unlink()
    places = f'{mirror / CONFIG} or {mirror / "config.json"}; {mirror / CLIP} or {mirror / "clip.bin"}'
    with pytest.raises(DownloadError, match=re.escape(f'missing in the folder of --from: {places}')):
        get(manifest, mirror=mirror)
    assert not (sources(manifest) / 'generator').exists()


@pytest.mark.slow
def test_a_large_file_survives_three_breaks(hub, tmp_path):
    size = 1000 * BLOCK + 11
    content = Content(size, 4)
    hub.files[WEIGHTS] = HubFile(content, cuts=[300 * BLOCK, 333 * BLOCK, BLOCK])
    manifest = load_manifest(write_manifest(tmp_path, size=size, sha256=content.sha256))
    get(manifest)
    path = sources(manifest) / 'generator' / 'model.safetensors'
    assert path.stat().st_size == size
    assert [request for request in hub.ranges() if request] == [
        f'bytes={start}-' for start in (300 * BLOCK, 633 * BLOCK, 634 * BLOCK)
    ]
    assert read_record(manifest).files['generator/model.safetensors'].sha256 == content.sha256

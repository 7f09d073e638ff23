from dataclasses import replace
import errno
import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time

import pytest

from fisa_ros.core.errors import BuildCancelledError, EngineCacheError, EngineError, EngineRefusedError, GpuMemoryError
from fisa_ros.runtime.engine_cache import PLAN_FILE, SIDECAR_FILE, BuildRecord, EngineCache

from .engine_samples import KEY, MACHINE, key_number

HERE = Path(__file__).absolute().parent


class Builder:
    """Writes plans and counts them."""

    def __init__(self, plan=b'plan', error=None):
        self.plan, self.error, self.builds = plan, error, 0

    def __call__(self, path):
        self.builds += 1
        path.write_bytes(self.plan)
        path.with_name('build.log').write_text('to be removed')
        if self.error:
            raise self.error
        return BuildRecord(2.5, 0.5, {'workspace_bytes': 7})


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / 'trt')


def entries(cache):
    return sorted(path.name for path in cache.folder.glob('[!.]*/'))


def leftovers(cache):
    return list(cache.folder.rglob('.part-*'))


def test_an_engine_is_built_once(cache):
    builder = Builder()
    first, second = cache.load_or_build(KEY, builder), cache.load_or_build(KEY, builder)
    assert (builder.builds, first.is_new, second.is_new) == (1, True, False)
    assert first.plan_path == second.plan_path == cache.folder / KEY.digest() / PLAN_FILE
    assert first.plan_path.read_bytes() == b'plan'
    assert second.record == BuildRecord(2.5, 0.5, {'workspace_bytes': 7})
    assert sorted(path.name for path in first.plan_path.parent.iterdir()) == [PLAN_FILE, SIDECAR_FILE]
    assert not leftovers(cache)


def test_the_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert EngineCache().folder == tmp_path / 'fisa_ros' / 'trt'


def test_the_sidecar_can_be_read_by_people(cache):
    engine = cache.load_or_build(KEY, Builder())
    sidecar = json.loads(engine.plan_path.with_name(SIDECAR_FILE).read_text())
    assert sidecar['fields'] == KEY.fields()
    assert sidecar['plan_sha256'] == engine.plan_sha256
    assert (sidecar['build_seconds'], sidecar['half_layer_share'], sidecar['parity']) == (2.5, 0.5, None)


@pytest.mark.parametrize(
    'other',
    [
        replace(KEY, machine=replace(MACHINE, tensorrt_version='11.4.0.106')),
        replace(KEY, machine=replace(MACHINE, gpu_name='NVIDIA Thor', compute_capability=(11, 0))),
        replace(KEY, external_data=(('encoder.onnx.data', 'c' * 64),)),
    ],
)
def test_another_version_gpu_or_weights_are_another_engine(cache, other):
    builder = Builder()
    cache.load_or_build(KEY, builder)
    assert cache.load_or_build(other, builder).is_new
    assert entries(cache) == sorted([KEY.digest(), other.digest()])


def edit(change):
    def damage(entry):
        path = entry / SIDECAR_FILE
        sidecar = json.loads(path.read_text())
        change(sidecar)
        path.write_text(json.dumps(sidecar))

    return damage


@pytest.mark.parametrize(
    'damage',
    [
        lambda entry: (entry / PLAN_FILE).write_bytes(b'plaN'),
        lambda entry: (entry / PLAN_FILE).write_bytes(b''),
        lambda entry: (entry / PLAN_FILE).write_bytes(b'planplan'),
        lambda entry: (entry / PLAN_FILE).unlink(),
        lambda entry: (entry / SIDECAR_FILE).unlink(),
        lambda entry: (entry / SIDECAR_FILE).write_text('{"format": 1'),
        lambda entry: (entry / SIDECAR_FILE).write_text('[]'),
        lambda entry: (entry / SIDECAR_FILE).write_bytes(b'\xff\xfe'),
        edit(lambda sidecar: sidecar.pop('parity')),
        edit(lambda sidecar: sidecar.update(format=0)),
        edit(lambda sidecar: sidecar.update(key='0' * 64)),
        edit(lambda sidecar: sidecar.update(build_seconds='long')),
        edit(lambda sidecar: sidecar['fields']['machine'].update(gpu_name='another')),
        lambda entry: os.chown(entry / PLAN_FILE, 12345, -1),
    ],
)
def test_damaged_engines_are_built_anew_once(cache, damage, caplog):
    builder = Builder()
    entry = cache.load_or_build(KEY, builder).plan_path.parent
    try:
        damage(entry)
    except PermissionError:
        pytest.skip('only root can give files away')
    assert cache.load_or_build(KEY, builder).is_new
    assert not cache.load_or_build(KEY, builder).is_new
    assert builder.builds == 2
    assert f'the TensorRT engine in {entry} is damaged and is built anew' in caplog.text
    assert not leftovers(cache)


def test_a_failed_build_leaves_nothing(cache):
    with pytest.raises(EngineError, match='no kernel'):
        cache.load_or_build(KEY, Builder(error=EngineError('no kernel')))
    assert entries(cache) == []
    assert not leftovers(cache)
    assert cache.load_or_build(KEY, Builder()).is_new


def test_what_an_interrupted_build_left_is_not_taken_and_is_removed(cache):
    left = cache.folder / f'.part-{KEY.digest()}-abc' / 'entry'
    left.mkdir(parents=True)
    (left / PLAN_FILE).write_bytes(b'half a plan')
    engine = cache.load_or_build(KEY, Builder())
    assert engine.plan_path.read_bytes() == b'plan'
    assert not left.exists()


def test_what_the_builder_refuses_is_not_built_again(cache):
    builder = Builder(error=EngineRefusedError('no kernel for Gelu'))
    for _ in range(2):
        with pytest.raises(EngineRefusedError, match='no kernel for Gelu'):
            cache.load_or_build(KEY, builder)
    assert builder.builds == 1
    refusal = EngineCache(cache.folder).refusal(KEY, {'gate': '3'})
    assert (refusal.reason, refusal.conditions) == ('no kernel for Gelu', {})
    document = json.loads((cache.folder / f'{KEY.digest()}.failed.json').read_text())
    assert document['fields'] == KEY.fields()
    assert cache.refusal(key_number(1)) is None
    cache.forget_refusal(KEY)
    assert cache.load_or_build(KEY, Builder()).is_new


@pytest.mark.parametrize(
    'error',
    [
        EngineError('the builder crashed with SIGSEGV'),
        GpuMemoryError('12 MiB left'),
        EngineCacheError('no space'),
        BuildCancelledError('cancelled'),
        KeyboardInterrupt(),
    ],
)
def test_what_may_pass_is_built_again(cache, error):
    builder = Builder(error=error)
    for _ in range(2):
        with pytest.raises(type(error)):
            cache.load_or_build(KEY, builder)
    assert builder.builds == 2
    assert not list(cache.folder.glob('*.failed.json'))


def test_a_refusal_holds_under_its_conditions(cache):
    cache.load_or_build(KEY, Builder())
    cache.record_refusal(KEY, 'cosine 0.5', {'gate': '3', 'reference': 'a'})
    assert cache.refusal(KEY, {'gate': '3', 'reference': 'a'}).reason == 'cosine 0.5'
    for others in ({'gate': '4', 'reference': 'a'}, {'gate': '3'}, {}, None):
        assert cache.refusal(KEY, others) is None
    # It is of use still, under other conditions.
    assert not cache.load_or_build(KEY, Builder()).is_new


def test_those_who_waited_for_a_refusal_do_not_build_themselves(cache):
    builder, errors, begun = Builder(error=EngineRefusedError('no kernel')), [], threading.Event()

    def build(path):
        begun.set()
        time.sleep(0.5)
        return builder(path)

    def start():
        try:
            cache.load_or_build(KEY, build)
        except EngineRefusedError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert builder.builds == 1
    assert errors[0] == 'no kernel'
    assert errors[1].startswith('no kernel (since 20')


def make_leftovers(folder, age_s):
    """Leave what crashes leave: a build of another engine, a folder about to go, two files."""
    folder.mkdir()
    plan = folder / f'.part-{key_number(7).digest()}-abc' / 'entry' / PLAN_FILE
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b'half a plan')
    trash = folder / f'.part-{key_number(8).digest()}-xyz'
    trash.mkdir()
    files = [folder / '.part-durations.json', folder / f'.part-{key_number(9).digest()}.failed.json']
    for file in files:
        file.write_text('{')
    left = [plan.parents[1], trash, *files]
    for path in left:
        os.utime(path, (time.time() - age_s,) * 2)
    return left


def test_old_leftovers_of_any_build_go_when_the_cache_is_opened(tmp_path):
    left = make_leftovers(tmp_path / 'trt', 90_000)
    EngineCache(tmp_path / 'trt')
    assert not any(path.exists() for path in left)


def test_young_leftovers_stay(tmp_path):
    left = make_leftovers(tmp_path / 'trt', 80_000)
    EngineCache(tmp_path / 'trt')
    assert all(path.exists() for path in left)


def test_what_somebody_is_at_work_on_stays_however_old(tmp_path):
    left = make_leftovers(tmp_path / 'trt', 90_000)
    cache = EngineCache(tmp_path / 'other')
    cache.folder = tmp_path / 'trt'
    with cache._locked(key_number(7).digest()), cache._locked('durations'):
        EngineCache(tmp_path / 'trt')
        assert [path.exists() for path in left] == [True, False, True, False]
    EngineCache(tmp_path / 'trt')
    assert not any(path.exists() for path in left)


def test_leftovers_on_a_disk_that_cannot_be_written_stay(small_disk):
    left = make_leftovers(small_disk / 'trt', 90_000)
    subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
    EngineCache(small_disk / 'trt')
    assert all(path.exists() for path in left)


def test_discarded_engines_are_built_anew(cache):
    cache.load_or_build(KEY, Builder())
    cache.discard(KEY)
    assert entries(cache) == []
    cache.discard(KEY)
    assert cache.load_or_build(KEY, Builder()).is_new


def test_verdicts_are_kept_in_the_sidecar(cache):
    cache.record_verdict(KEY, {'passed': True})
    assert entries(cache) == []
    cache.load_or_build(KEY, Builder())
    cache.record_verdict(KEY, {'passed': False, 'checks': []})
    assert cache.load_or_build(KEY, Builder()).parity == {'passed': False, 'checks': []}


def test_durations_outlive_engines(cache):
    assert cache.last_duration_s('fisa-s encoder') is None
    cache.load_or_build(KEY, Builder())
    cache.record_duration('fisa-s encoder', 252.42)
    cache.record_duration('fisa-s head', 3)
    cache.discard(KEY)
    assert (cache.last_duration_s('fisa-s encoder'), cache.last_duration_s('fisa-s head')) == (252.4, 3)
    (cache.folder / 'durations.json').write_text('[')
    assert cache.last_duration_s('fisa-s encoder') is None
    cache.record_duration('fisa-s encoder', 4)
    assert cache.last_duration_s('fisa-s encoder') == 4


def test_there_is_a_timing_cache_for_each_version_and_gpu(cache):
    paths = {
        cache.timing_cache_path(replace(MACHINE, **changed))
        for changed in ({}, {'tensorrt_version': '11.4.0.106'}, {'gpu_name': 'a/b'}, {'compute_capability': (9, 0)})
    }
    assert len(paths) == 4
    assert {path.parent for path in paths} == {cache.folder}


def test_plans_that_were_not_used_for_longest_go(cache):
    cache.limit_bytes = 25
    for number in range(3):
        cache.load_or_build(key_number(number), Builder(b'x' * 10))
        age_ns = time.time_ns() - (100 - number) * 10**9
        os.utime(cache.folder / key_number(number).digest() / SIDECAR_FILE, ns=(age_ns, age_ns))
        if number == 1:
            cache.load_or_build(key_number(0), Builder())
    assert entries(cache) == sorted([key_number(0).digest(), key_number(2).digest()])
    assert not leftovers(cache)


def test_the_engine_in_hand_stays_however_large(cache):
    cache.limit_bytes = 5
    cache.load_or_build(key_number(0), Builder(b'x' * 10))
    engine = cache.load_or_build(key_number(1), Builder(b'x' * 10))
    assert engine.plan_path.exists()
    assert entries(cache) == [key_number(1).digest()]


def test_an_engine_that_another_process_holds_stays(cache):
    cache.limit_bytes = 15
    cache.load_or_build(key_number(0), Builder(b'x' * 10))
    with cache._locked(key_number(0).digest()):
        cache.load_or_build(key_number(1), Builder(b'x' * 10))
    assert len(entries(cache)) == 2


BUILD_SLOWLY = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from fisa_ros.runtime.engine_cache import BuildRecord, EngineCache
from engine_samples import KEY

folder = Path(sys.argv[2])

def build(path):
    with (folder / 'builds').open('a') as file:
        file.write('built\\n')
    path.write_bytes(b'half')
    time.sleep(float(sys.argv[3]))
    path.write_bytes(b'whole plan')
    return BuildRecord(1.0)

engine = EngineCache(folder / 'trt').load_or_build(KEY, build)
print(engine.is_new, engine.plan_path.read_bytes().decode())
"""


def start_building(tmp_path, seconds):
    command = [sys.executable, '-c', BUILD_SLOWLY, str(HERE), str(tmp_path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_builds(tmp_path, count):
    end_s = time.monotonic() + 30
    while not (tmp_path / 'builds').exists() or (tmp_path / 'builds').read_text().count('built') < count:
        assert time.monotonic() < end_s, 'no build began'
        time.sleep(0.02)


def test_two_processes_build_one_engine(tmp_path):
    processes = [start_building(tmp_path, 1.0) for _ in range(2)]
    answers = sorted(process.communicate(timeout=60)[0].split(maxsplit=1) for process in processes)
    assert answers == [['False', 'whole plan\n'], ['True', 'whole plan\n']]
    assert (tmp_path / 'builds').read_text() == 'built\n'


def test_the_second_builds_when_the_first_is_killed(tmp_path):
    first = start_building(tmp_path, 60)
    wait_for_builds(tmp_path, 1)
    second = start_building(tmp_path, 0.0)
    time.sleep(0.5)
    assert second.poll() is None, 'it did not wait'
    first.kill()
    first.communicate()
    assert second.communicate(timeout=60)[0] == 'True whole plan\n'
    assert (tmp_path / 'builds').read_text().count('built') == 2
    assert not leftovers(EngineCache(tmp_path / 'trt'))


def test_waiting_for_another_can_be_cancelled(cache):
    asked = []
    with cache._locked(KEY.digest()), pytest.raises(BuildCancelledError, match='another process builds the same'):
        cache.load_or_build(KEY, Builder(), lambda: len(asked) > 2 or asked.append(1))
    assert len(asked) == 3


def test_threads_of_one_process_build_one_engine_too(cache):
    builder, seen = Builder(), []
    threads = [threading.Thread(target=lambda: seen.append(cache.load_or_build(KEY, builder).is_new)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builder.builds == 1
    assert sorted(seen) == [False, False, False, True]


@pytest.mark.parametrize('folder', ['file/trt', '/proc/fisa_ros_trt', 'file'])
def test_folders_that_cannot_be_written_are_named(tmp_path, folder):
    (tmp_path / 'file').touch()
    path = Path(tmp_path, folder)
    with pytest.raises(EngineCacheError, match=rf'TensorRT engines in {path} cannot be read or written: .*XDG_CACHE'):
        EngineCache(path).load_or_build(KEY, Builder())


def test_engines_on_a_disk_that_cannot_be_written_are_used(small_disk):
    cache = EngineCache(small_disk / 'trt', limit_bytes=1)
    for number in (0, 1):
        cache.load_or_build(key_number(number), Builder(b'x' * 1000))
    subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
    found = cache.load_or_build(key_number(1), Builder())
    assert not found.is_new
    assert found.plan_path.read_bytes() == b'x' * 1000
    with pytest.raises(EngineCacheError, match='Read-only file system'):
        cache.load_or_build(key_number(2), Builder())


def test_a_full_disk_is_named_with_its_space(small_disk):
    cache = EngineCache(small_disk / 'trt')
    cache.load_or_build(key_number(0), Builder(b'x' * 1000))
    filler = small_disk / 'filler'

    def fill_up(path):
        path.write_bytes(b'plan')
        with pytest.raises(OSError, match='No space left'):
            filler.write_bytes(b'x' * (1 << 20))
        return BuildRecord(1.0)

    with pytest.raises(EngineCacheError, match=rf'no space for a TensorRT engine in {cache.folder}: 0 MiB are free'):
        cache.load_or_build(key_number(1), fill_up)
    assert entries(cache) == [key_number(0).digest()]
    filler.unlink()
    assert cache.load_or_build(key_number(0), Builder()).plan_path.read_bytes() == b'x' * 1000
    assert cache.load_or_build(key_number(1), Builder()).is_new
    assert not leftovers(cache)


def test_a_disk_that_fills_up_at_the_last_moment(cache, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', fail)
        with pytest.raises(EngineCacheError, match=r'no space for a TensorRT engine in .*: \d+ MiB are free there'):
            cache.load_or_build(KEY, Builder())
    assert entries(cache) == []
    assert not leftovers(cache)
    engine = cache.load_or_build(KEY, Builder())
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', fail)
        with pytest.raises(EngineCacheError, match='no space'):
            cache.record_verdict(KEY, {'passed': True})
    assert cache.load_or_build(KEY, Builder()).parity is None
    assert not cache.load_or_build(KEY, Builder()).is_new
    assert not leftovers(cache)
    assert engine.plan_path.exists()

"""Whole recordings, in this process and as a command that is interrupted in all ways."""

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo
import yaml

from fisa_ros.core.errors import BagError, GpuMemoryError
from fisa_ros.msg import SegmentArray
from fisa_ros.node.bag_outputs import ModelOptions, OutputMaker
from fisa_ros.node.bag_parts import StoppedError
from fisa_ros.node.bag_segmentation import BagTask, plan_bag, run_here, segment_bag
from fisa_ros.node.bag_topics import choose_topics, output_prefixes
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.sources.bag import Bag, BagWriter
from fisa_ros.sources.message_definitions import recorded_definition
from fisa_ros.tools.bag_arguments import add_bag_arguments, model_options
from fisa_ros.tools.segment_bag import main

COMMAND = Path(__file__).absolute().parent / 'segment_bag_by_colour.py'
WORDS = 'red flag; blue flag, navy; green, lawn'
OUTPUTS = {'label_info', 'vision_info', 'mask', 'instances', 'confidence', 'segments', 'detections'}
TIMEOUT_S = 60.0


@pytest.fixture
def colours(monkeypatch, color_backend, color_manifest):
    monkeypatch.setattr(Segmenter, 'load', lambda *_: Segmenter(color_backend, color_manifest))
    return color_backend


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main([*map(str, arguments), '--json'])
        printed, errors = capsys.readouterr()
        return code, json.loads(printed) if printed else None, errors

    return call


def options_of(*arguments: str) -> ModelOptions:
    parser = argparse.ArgumentParser()
    add_bag_arguments(parser)
    return model_options(parser.parse_args(arguments))


def start(*arguments, segment_s=0.0, limit=None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(COMMAND), *map(str, arguments), '--vocabulary', 'red; green; blue', '--json'],
        env=os.environ | {'SEGMENT_S': str(segment_s)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def finish(process) -> tuple[int, dict | None, str]:
    printed, errors = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, json.loads(printed) if printed else None, errors


def contents(path: Path) -> list[tuple[str, str, int, bytes]]:
    with Bag(path) as bag:
        return [(entry.topic, entry.msgtype, time_ns, data) for entry, time_ns, data in bag.messages()]


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s, 'waited too long'
        time.sleep(0.02)


def parts_of(out: Path) -> list[Path]:
    return sorted(out.with_name(f'{out.name}.work').glob('part_*'))


@pytest.mark.usefixtures('colours')
@pytest.mark.parametrize(('recorded', 'made'), [('mcap', 'sqlite3'), ('sqlite3', 'mcap')])
def test_all_messages_are_there_and_each_image_is_answered(write_bag, run, tmp_path, recorded, made):
    source, out = write_bag(storage=recorded), tmp_path / 'out'
    code, summary, _ = run(source, out, '--vocabulary', WORDS, '--storage', made, '--part-images', 5)
    assert code == 0
    assert (summary['images'], summary['kept'], summary['failed']) == (12, 0, [])
    with Bag(out) as bag:
        assert bag.storage == made
        latched = [entry for entry in bag.connections if entry.topic.endswith(('label_info', 'vision_info'))]
        assert {entry.ext.offered_qos_profiles[0].durability for entry in latched} == {QosDurability.TRANSIENT_LOCAL}
        with Bag(source) as before:
            kept = {(entry.topic, entry.msgdef, entry.digest, str(entry.ext)) for entry in bag.connections}
            for entry in before.connections:
                assert (entry.topic, entry.msgdef, entry.digest, str(entry.ext)) in kept
    messages = contents(out)
    assert [message for message in messages if '/segmentation/' not in message[0]] == contents(source)
    assert [time_ns for _, _, time_ns, _ in messages] == sorted(time_ns for _, _, time_ns, _ in messages)

    for camera, topic in (('front', '/front/image_raw'), ('rear', '/rear/image/compressed')):
        mine = [message for message in messages if message[0].startswith((f'/{camera}/segmentation/', topic))]
        assert [name.rpartition('/')[2] for name, *_ in mine[1:3]] == ['label_info', 'vision_info']
        times = {time_ns for name, _, time_ns, _ in mine if name == topic}
        for output in OUTPUTS:
            found = {time_ns for name, _, time_ns, _ in mine if name == f'/{camera}/segmentation/{output}'}
            assert found == (times if output not in ('label_info', 'vision_info') else {min(times)})


@pytest.mark.usefixtures('colours')
def test_outputs_say_what_the_image_shows(write_bag, run, tmp_path, flags):
    assert run(write_bag(), tmp_path / 'out', '--vocabulary', WORDS, '--topics', '/front/image_raw')[0] == 0
    messages = contents(tmp_path / 'out')
    at = {}
    for name, _, time_ns, data in messages:
        at.setdefault(time_ns, {})[name] = data
    names = {entry.class_id: entry.class_name for entry in deserialize_message(messages[4][3], LabelInfo).class_map}
    assert names == {1: 'red flag', 2: 'blue flag', 3: 'green'}
    answered = [moment for moment in at.values() if '/front/segmentation/mask' in moment]
    assert len(answered) == 6
    for number, moment in enumerate(answered):
        image = deserialize_message(moment['/front/image_raw'], Image)
        mask = deserialize_message(moment['/front/segmentation/mask'], Image)
        segments = deserialize_message(moment['/front/segmentation/segments'], SegmentArray)
        assert image.header == mask.header == segments.header
        pixels = np.frombuffer(mask.data, np.uint8).reshape(120, 160)
        expected = np.select([flags[..., 0] == 255, flags[..., 2] == 255], [1, 2], 3)
        assert (pixels == np.roll(expected, 4 * number, axis=1)).mean() > 0.97
        assert {segment.class_name for segment in segments.segments} == set(names.values())


@pytest.mark.usefixtures('colours')
def test_what_is_written_can_be_read_without_ros(write_bag, run, tmp_path):
    assert run(write_bag(images=2), tmp_path / 'out', '--vocabulary', WORDS)[0] == 0
    # Knows no types but those that the recording itself defines.
    with AnyReader([tmp_path / 'out']) as reader:
        read = {entry.topic: reader.deserialize(data, entry.msgtype) for entry, _, data in reader.messages()}
    assert read['/front/segmentation/segments'].segments[0].class_name == 'green'
    detections = read['/front/segmentation/detections'].detections
    assert {entry.results[0].hypothesis.class_id for entry in detections} == {'red flag', 'blue flag', 'green'}
    assert read['/front/segmentation/vision_info'].database_location == '/front/segmentation/label_info'
    assert read['/robot/state'].gear == 1


@pytest.mark.usefixtures('colours')
def test_only_what_was_asked_for_is_written(write_bag, run, tmp_path):
    out = tmp_path / 'out'
    code, summary, _ = run(
        write_bag(), out, '--vocabulary', WORDS, '--outputs-only', '--outputs', 'mask, overlay', '--mask-encoding',
        'mono16', '--topics', '/rear/image/compressed', '/front/image_raw',
    )  # fmt: skip
    assert code == 0
    assert set(summary['topics']) == {'/rear/image/compressed', '/front/image_raw'}
    messages = contents(out)
    assert len(messages) == 24
    assert {name for name, *_ in messages} == {
        f'/{camera}/segmentation/{output}' for camera in ('front', 'rear') for output in ('mask', 'overlay')
    }
    masks = [deserialize_message(data, Image) for name, _, _, data in messages if name.endswith('mask')]
    assert {mask.encoding for mask in masks} == {'mono16'}


@pytest.mark.usefixtures('colours')
def test_images_that_cannot_be_used_are_named_and_the_rest_is_done(write_bag, run, tmp_path):
    source, out = write_bag(damaged=[0], broken=[3]), tmp_path / 'out'
    code, summary, _ = run(source, out, '--vocabulary', WORDS, '--topics', '/front/image_raw')
    assert code == 1
    assert [entry['time_ns'] // 100_000_000 % 10 for entry in summary['failed']] == [0, 3]
    assert 'are no sensor_msgs/msg/Image' in summary['failed'][0]['reason']
    assert "encoding 'rgb9' is not supported" in summary['failed'][1]['reason']
    messages = contents(out)
    assert [message for message in messages if '/segmentation/' not in message[0]] == contents(source)
    assert sum(name.endswith('/mask') for name, *_ in messages) == 4
    assert sum(name.endswith('/label_info') for name, *_ in messages) == 1


def test_a_finished_recording_is_left_alone(write_bag, run, tmp_path, colours, color_manifest):
    arguments = write_bag(damaged=[1]), tmp_path / 'out', '--vocabulary', WORDS
    code, summary, _ = run(*arguments)
    before = (tmp_path / 'out' / 'metadata.yaml').stat().st_ino
    assert (code, summary['was_finished']) == (1, False)
    code, again, _ = run(*arguments)
    assert (code, again['was_finished'], again['failed']) == (1, True, summary['failed'])
    assert (tmp_path / 'out' / 'metadata.yaml').stat().st_ino == before
    code, _, errors = run(*arguments[:2], '--vocabulary', 'red; green')
    assert code == 2
    assert 'was made with other vocabulary' in errors


def test_types_that_nobody_defines_are_carried_over(run, write_bag, tmp_path, colours):
    source = tmp_path / 'source'
    with Writer(source, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        with Bag(write_bag()) as bag:
            for entry in bag.connections[:1]:
                text, digest = entry.msgdef.data, entry.digest
                image = writer.add_connection(entry.topic, entry.msgtype, msgdef=text, rihs01=digest)
            for _, time_ns, data in bag.messages(bag.connections[:1]):
                writer.write(image, time_ns, data)
        strange = writer.add_connection('/strange', 'strange_msgs/msg/Thing', msgdef='', rihs01='INVALID')
        writer.write(strange, 1_700_000_000_050_000_000, b'\x00\x01\x00\x00abcd')
    assert run(source, tmp_path / 'out', '--vocabulary', WORDS, '--storage', 'mcap')[0] == 0
    assert [message for message in contents(tmp_path / 'out') if message[0] == '/strange'] == [
        ('/strange', 'strange_msgs/msg/Thing', 1_700_000_000_050_000_000, b'\x00\x01\x00\x00abcd')
    ]


@pytest.mark.usefixtures('colours')
@pytest.mark.parametrize(
    ('arguments', 'reason'),
    [
        (['missing', 'out'], 'does not exist'),
        (['empty', 'out'], 'no metadata.yaml'),
        (['bag', 'bag'], 'is the recording itself'),
        (['bag', 'empty'], 'was not made by this command'),
        (
            ['bag', 'out', '--topics', '/tf'],
            'has no topic /tf of images; topics of images are: /front/depth, /front/im',
        ),
        (['bag', 'out', '--outputs', 'mask,masks'], 'there is no masks; there are label_info'),
        (['bag', 'out', '--outputs', ','], 'none is named'),
        (['bag', 'out', '--jobs', '0'], '--jobs must be at least 1, got 0'),
        (['bag', 'out', '--part-images', '0'], '--part-images must be at least 1, got 0'),
        (['bag', 'out', '--vocabulary', 'cat; cat'], 'cat'),
        (['cut.mcap', 'out'], 'cannot be read as a recording'),
        (['flipped.mcap', 'out'], 'is damaged'),
    ],
)
def test_errors_say_what_to_do(write_bag, run, tmp_path, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    recorded = (write_bag() / 'bag.mcap').read_bytes()
    (tmp_path / 'cut.mcap').write_bytes(recorded[:-1000])
    # The length of a record in the midst of the only chunk.
    at = recorded.index(b'rgb8', 100_000) - 60
    (tmp_path / 'flipped.mcap').write_bytes(recorded[:at] + b'\xff' * 40 + recorded[at + 40 :])
    code, summary, errors = run(*arguments)
    assert (code, summary) == (2, None)
    assert reason in errors
    assert not (tmp_path / 'out').exists()


def test_a_model_that_fails_is_not_taken_for_a_bad_image(write_bag, run, tmp_path, colours, monkeypatch):
    arguments = write_bag(images=4), tmp_path / 'out', '--vocabulary', WORDS, '--part-images', 4
    segment, count = colours.segment, 0

    def segment_some(*arguments):
        nonlocal count
        count += 1
        if count > 5:
            raise GpuMemoryError('no memory left on the GPU')
        return segment(*arguments)

    monkeypatch.setattr(colours, 'segment', segment_some)
    code, summary, errors = run(*arguments)
    assert (code, summary, errors) == (2, None, 'error: no memory left on the GPU\n')
    monkeypatch.setattr(colours, 'segment', segment)
    code, summary, _ = run(*arguments)
    assert (code, summary['images'], summary['kept'], summary['failed']) == (0, 8, 4, [])


@pytest.mark.usefixtures('colours')
def test_topics_of_a_node_that_was_recorded_are_not_written_twice(write_bag, run, tmp_path):
    assert run(write_bag(), tmp_path / 'once', '--vocabulary', WORDS)[0] == 0
    code, _, errors = run(tmp_path / 'once', tmp_path / 'twice', '--vocabulary', WORDS)
    assert code == 2
    assert 'has /front/segmentation/confidence, ' in errors
    assert run(tmp_path / 'once', tmp_path / 'twice', '--vocabulary', WORDS, '--outputs-only')[0] == 0
    added = [message for message in contents(tmp_path / 'once') if '/segmentation/' in message[0]]
    assert contents(tmp_path / 'twice') == added


def edit_metadata(path: Path, change: Callable[[dict], None]) -> None:
    content = yaml.safe_load((path / 'metadata.yaml').read_text())
    change(content['rosbag2_bagfile_information'])
    (path / 'metadata.yaml').write_text(yaml.safe_dump(content))


@pytest.mark.usefixtures('colours')
@pytest.mark.parametrize(('late_ns', 'duration_ns'), [(250_000_000, 1), (-10_000_000_000, 1), (300_000_000, 10**12)])
def test_images_outside_the_recorded_span_are_not_lost(write_bag, run, tmp_path, late_ns, duration_ns):
    source, out = write_bag(), tmp_path / 'out'

    def change(content):
        content['starting_time']['nanoseconds_since_epoch'] += late_ns
        content['duration']['nanoseconds'] = duration_ns

    edit_metadata(source, change)
    code, summary, _ = run(source, out, '--vocabulary', WORDS, '--part-images', 3)
    assert (code, summary['images']) == (0, 12)
    assert sum(topic.endswith('/mask') for topic, *_ in contents(out)) == 12


@pytest.mark.usefixtures('colours')
def test_another_number_of_images_than_planned_is_an_error(write_bag, run, tmp_path):
    source, out = write_bag(), tmp_path / 'out'

    def change(content):
        [topic] = [entry for entry in content['topics_with_message_count'] if 'raw' in entry['topic_metadata']['name']]
        topic['message_count'] += 1

    edit_metadata(source, change)
    code, _, errors = run(source, out, '--vocabulary', WORDS)
    assert code == 2
    assert 'holds 12 images and says that it has 13' in errors
    assert not out.exists()


def test_a_part_of_other_images_than_planned_is_an_error(write_bag, tmp_path, colours, color_manifest):
    source, out = write_bag(), tmp_path / 'out'
    model = options_of('--vocabulary', WORDS)
    plan = plan_bag(BagTask(source, out, model, part_images=3))
    runner = run_here(lambda: OutputMaker(Segmenter(colours, color_manifest), model))

    def run_part(plan, parts, on_images, is_stopped):
        runner(plan, parts, on_images, is_stopped)
        report = parts_of(out)[0] / 'report.json'
        report.write_text(json.dumps(json.loads(report.read_text()) | {'images': 2}))

    with pytest.raises(BagError, match=r'has the outputs of 11 images, .* has 12: remove it'):
        segment_bag(plan, run_part)
    assert not out.exists()


def test_parts_have_as_many_images_each_and_there_is_one_for_every_process(write_bag, tmp_path, colours):
    """A robot that stands still for an hour between two drives."""
    first, source = write_bag(images=6), tmp_path / 'two_drives'
    with Bag(first) as bag, BagWriter(source, 'mcap') as writer:
        [entry] = [entry for entry in bag.connections if entry.topic == '/front/image_raw']
        topic = writer.add_topic(entry.topic, entry.msgtype, recorded_definition(entry), [])
        for later_ns in (0, 3_600_000_000_000):
            for message in bag.messages([entry]):
                writer.write(topic, message.time_ns + later_ns, message.data)
    model = options_of('--vocabulary', WORDS)
    found = []

    def stop(plan, parts, on_images, is_stopped):
        with Bag(source) as bag:
            found.append([len(list(bag.messages((), part.start_ns, part.stop_ns))) for part in parts])
        raise StoppedError

    for jobs, part_images in ((1, 4), (3, 100), (20, 100), (1, 100)):
        out = tmp_path / f'{jobs}_{part_images}'
        with pytest.raises(StoppedError):
            segment_bag(plan_bag(BagTask(source, out, model, part_images=part_images, jobs=jobs)), stop)
    assert found == [[4, 4, 4], [4, 4, 4], [1] * 12, [12]]
    # Other processes go on with the parts that were begun.
    with pytest.raises(StoppedError):
        segment_bag(plan_bag(BagTask(source, tmp_path / '3_100', model, jobs=5)), stop)
    assert found[-1] == [4, 4, 4]


@pytest.mark.parametrize('processes', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_nothing_shows(write_bag, tmp_path, processes):
    source, out = write_bag(images=20), tmp_path / 'out'
    arguments = source, out, '--part-images', 4, '--jobs', processes
    process = start(*arguments, segment_s=0.1)
    wait_for(lambda: len(parts_of(out)) >= 2)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    wait_for(lambda: not any(Path(f'/proc/{child}').exists() for child in children))
    assert not out.exists()
    done = len(parts_of(out))
    assert 2 <= done < 10
    # What a power cut leaves of a part is made again.
    first = next(parts_of(out)[0].glob('*.mcap'))
    first.write_bytes(first.read_bytes()[:-100])

    code, summary, errors = finish(start(*arguments))
    assert code == 0, errors
    assert (summary['images'], summary['kept']) == (40, 4 * (done - 1))
    assert 'is damaged and is made again' in errors
    assert not out.with_name('out.work').exists()
    assert finish(start(source, tmp_path / 'whole' / 'out', '--part-images', 4))[0] == 0
    assert contents(out) == contents(tmp_path / 'whole' / 'out')


@pytest.mark.parametrize(
    ('number', 'processes'), [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_at_a_good_moment(write_bag, tmp_path, number, processes):
    source, out = write_bag(images=20), tmp_path / 'out'
    arguments = source, out, '--part-images', 4, '--jobs', processes
    process = start(*arguments, segment_s=0.1)
    wait_for(lambda: len(parts_of(out)) >= 1)
    code, _, errors = finish(start(*arguments))
    assert code == 2
    assert 'another process is at work' in errors
    process.send_signal(number)
    code, summary, errors = finish(process)
    assert (code, summary) == (128 + number, None)
    assert errors == f'stopped; the same command goes on with {out}\n'
    code, _, errors = finish(start(*arguments, '--outputs', 'mask'))
    assert code == 2
    assert 'was begun with other outputs' in errors
    code, summary, _ = finish(start(*arguments))
    assert code == 0
    assert summary['kept'] >= 4


@pytest.mark.slow
def test_a_process_that_is_killed_is_said(write_bag, tmp_path):
    arguments = write_bag(images=20), tmp_path / 'out', '--part-images', 4, '--jobs', 2
    process = start(*arguments, segment_s=0.2)
    wait_for(lambda: parts_of(tmp_path / 'out'))
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    workers = [child for child in children if 'spawn_main' in Path(f'/proc/{child}/cmdline').read_text()]
    os.kill(int(workers[0]), signal.SIGKILL)
    code, summary, errors = finish(process)
    assert (code, summary) == (2, None)
    assert 'a process ended without a word, perhaps for want of memory' in errors
    assert finish(start(*arguments))[0] == 0


@pytest.mark.parametrize(('storage', 'limit'), [('mcap', 60_000), ('sqlite3', 1_500_000)])
def test_a_full_disk_is_said_and_loses_nothing(write_bag, tmp_path, storage, limit):
    source, out = write_bag(images=20), tmp_path / 'out'
    arguments = source, out, '--part-images', 8, '--storage', storage
    # Parts are below this size, the result is above; a full disk fails in the same places.
    code, summary, errors = finish(
        start(*arguments, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit,) * 2))
    )
    assert (code, summary) == (2, None)
    assert 'cannot be written: ' in errors
    assert not out.exists()
    assert not (tmp_path / 'out.work' / 'merged').exists()
    code, summary, _ = finish(start(*arguments))
    assert (code, summary['kept']) == (0, 40)


def test_the_shipped_model_segments_a_recording(write_bag, run, tmp_path):
    code, summary, errors = run(write_bag(images=2), tmp_path / 'out', '--device', 'cpu')
    assert code == 0, errors
    assert summary['methods'][0].startswith('fisa-tiny (onnxruntime on cpu, ')


@pytest.mark.parametrize(
    ('topics', 'prefixes'),
    [
        (['/image'], ['/segmentation/']),
        (['/front/image_raw', '/rear/image'], ['/front/segmentation/', '/rear/segmentation/']),
        (['/camera/color/image_raw/compressed'], ['/camera/color/segmentation/']),
        (['/cam/left', '/cam/right'], ['/cam/left/segmentation/', '/cam/right/segmentation/']),
        (['/cam/image', '/cam/image/compressed'], ['/cam/image/segmentation/', '/cam/image/compressed/segmentation/']),
    ],
)
def test_names_of_outputs(topics, prefixes):
    assert list(output_prefixes(topics).values()) == prefixes


def test_two_topics_that_would_have_the_same_outputs_are_named():
    with pytest.raises(BagError, match=r'of /cam/left and /cam/left/image would both be /cam/left/segmentation/'):
        output_prefixes(['/cam/left', '/cam/right', '/cam/left/image'])


def test_of_an_image_and_its_compressed_form_one_is_taken(write_bag, tmp_path):
    path = tmp_path / 'both'
    with Bag(write_bag()) as bag, Writer(path, version=9) as writer:
        renamed = {'/front/image_raw': '/image', '/rear/image/compressed': '/image/compressed', '/front/depth': '/d'}
        topics = {
            entry.id: writer.add_connection(
                renamed[entry.topic], entry.msgtype, msgdef=entry.msgdef.data, rihs01=entry.digest
            )
            for entry in bag.connections
            if entry.topic in renamed
        }
        for entry, time_ns, data in bag.messages():
            if entry.id in topics:
                writer.write(topics[entry.id], time_ns, data)
    with Bag(path) as bag:
        assert choose_topics(bag) == ['/image']
        assert choose_topics(bag, ['/image/compressed']) == ['/image/compressed']
        with pytest.raises(
            BagError, match='has no topic /images of images; topics of images are: /d, /image, /image/c'
        ):
            choose_topics(bag, ['/images'])

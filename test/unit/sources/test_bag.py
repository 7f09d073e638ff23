import json
import os
from pathlib import Path

import pytest
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat, QosDurability
import yaml

from fisa_ros.core.errors import BagError
from fisa_ros.sources.bag import Bag, BagWriter, reliable_qos
from fisa_ros.sources.bag_paths import is_bag
from fisa_ros.sources.message_definitions import (
    NO_HASH,
    Definition,
    definition_of,
    installed_types,
    recorded_definition,
)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_folders_and_files_are_recordings(write_bag, storage):
    path = write_bag(storage=storage)
    with Bag(path) as folder, Bag(folder.files[0]) as file:
        assert folder.storage == file.storage == storage
        assert folder.message_count == file.message_count == 37
        assert (folder.start_ns, folder.stop_ns) == (1_700_000_000_000_000_000, 1_700_000_000_530_000_001)
        assert [message[1:] for message in folder.messages()] == [message[1:] for message in file.messages()]
        some = [entry for entry in folder.connections if entry.topic == '/tf']
        times = [message.time_ns for message in folder.messages(some, folder.start_ns, folder.start_ns + 120_000_000)]
        assert times == [1_700_000_000_020_000_000]
        assert is_bag(path)
        assert is_bag(folder.files[0])
    assert not is_bag(path.parent)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_damage_is_an_error_of_ours(write_bag, storage, share):
    path = write_bag(storage=storage)
    with Bag(path) as bag:
        file = bag.files[0]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BagError, match=str(path)), Bag(path) as bag:
        assert len(list(bag.messages())) == 37, 'nothing is lost in silence'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_files_that_overlap_are_merged_by_time(tmp_path, storage):
    times = {'a': [1, 4, 6], 'b': [3, 5, 9], 'c': [10, 11], 'd': [7, 8]}
    for name, times_ns in times.items():
        with BagWriter(tmp_path / name, storage) as writer:
            topic = writer.add_topic('/t', 'std_msgs/msg/String', Definition('string data\n', NO_HASH), [])
            for time_ns in times_ns:
                writer.write(topic, time_ns, bytes([0, 1, 0, 0, time_ns]))
    metadata = yaml.safe_load((tmp_path / 'a' / 'metadata.yaml').read_text())
    content = metadata['rosbag2_bagfile_information']
    content['relative_file_paths'] = []
    for name in times:
        with Bag(tmp_path / name) as bag:
            file = bag.files[0]
        file.rename(tmp_path / 'a' / file.name)
        content['relative_file_paths'].append(file.name)
    content['message_count'] = content['topics_with_message_count'][0]['message_count'] = 10
    (tmp_path / 'a' / 'metadata.yaml').write_text(yaml.safe_dump(metadata))
    with Bag(tmp_path / 'a') as bag:
        assert [message.time_ns for message in bag.messages()] == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
        assert [message.data[4] for message in bag.messages(bag.connections, 4, 8)] == [4, 5, 6, 7]


def test_what_is_no_recording_is_said(tmp_path):
    with pytest.raises(BagError, match=r'has no metadata\.yaml'):
        Bag(tmp_path)
    with pytest.raises(BagError, match='does not exist'):
        Bag(tmp_path / 'none')
    (tmp_path / 'notes.txt').write_text('none')
    with pytest.raises(BagError, match='cannot be read as a recording'):
        Bag(tmp_path / 'notes.txt')


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_what_is_written_can_be_read(tmp_path, storage):
    definition = Definition('string data\n', 'RIHS01_' + '0' * 64)
    with BagWriter(tmp_path / 'made', storage) as writer:
        first = writer.add_topic('/a', 'std_msgs/msg/String', definition, [reliable_qos(True)])
        assert writer.add_topic('/a', 'std_msgs/msg/String', definition, [reliable_qos(True)]) == first
        other = writer.add_topic('/a', 'std_msgs/msg/String', definition, [reliable_qos(False)])
        for number in range(3):
            writer.write(first if number else other, 5 + number, bytes([0, 1, 0, 0, number]))
    with Bag(tmp_path / 'made') as bag:
        assert [(time_ns, data[4]) for _, time_ns, data in bag.messages()] == [(5, 0), (6, 1), (7, 2)]
        assert {entry.ext.offered_qos_profiles[0].durability for entry in bag.connections} == {
            QosDurability.TRANSIENT_LOCAL,
            QosDurability.VOLATILE,
        }
    with pytest.raises(BagError, match='exists already'):
        BagWriter(tmp_path / 'made', storage)


def test_an_interrupted_recording_is_none(tmp_path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / 'made', 'mcap'):
        raise RuntimeError
    assert not is_bag(tmp_path / 'made')


@pytest.mark.parametrize(
    'name', ['fisa_ros/msg/SegmentArray', 'vision_msgs/msg/Detection2DArray', 'vision_msgs/msg/LabelInfo']
)
def test_hashes_are_those_of_the_generators(name):
    package, _, kind = name.split('/')
    prefixes = [Path(prefix) for prefix in os.environ['AMENT_PREFIX_PATH'].split(os.pathsep)]
    path = next(prefix for prefix in prefixes if (prefix / 'share' / package / 'msg').is_dir())
    generated = json.loads((path / 'share' / package / 'msg' / f'{kind}.json').read_text())
    hashes = {entry['type_name']: entry['hash_string'] for entry in generated['type_hashes']}
    assert definition_of(name, installed_types([name])).type_hash == hashes[name]


def test_definitions_that_a_recording_lacks(write_bag):
    with Bag(write_bag()) as bag:
        image = next(entry for entry in bag.connections if entry.topic == '/front/image_raw')
        state = next(entry for entry in bag.connections if entry.topic == '/robot/state')
    none = MessageDefinition(MessageDefinitionFormat.NONE, '')
    known = recorded_definition(image)
    assert recorded_definition(image._replace(digest='')) == known
    assert recorded_definition(image._replace(msgdef=none)).type_hash == known.type_hash
    # Of another version than the installed one.
    assert recorded_definition(image._replace(msgdef=none, digest='RIHS01_1')) == Definition('', 'RIHS01_1')
    assert recorded_definition(state._replace(msgdef=none, digest='')) == Definition('', NO_HASH)
    idl = MessageDefinition(MessageDefinitionFormat.IDL, 'module robot_msgs {};')
    assert recorded_definition(state._replace(msgdef=idl)).text.startswith('=' * 80 + '\nIDL: robot_msgs/msg/State\n')
    with pytest.raises(BagError, match='robot_msgs/msg/State is not installed'):
        installed_types(['robot_msgs/msg/State'])

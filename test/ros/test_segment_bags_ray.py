"""Many recordings on a Ray of this machine."""

import argparse
import json
import os
from pathlib import Path

import pytest

from fisa_ros.core.errors import BagError
from fisa_ros.node.bag_segmentation import BagTask
from fisa_ros.sources.bag import Bag
from fisa_ros.tools.bag_arguments import add_bag_arguments, model_options
from fisa_ros.tools.segment_bags_ray import main

pytestmark = [
    pytest.mark.slow,
    # Ray opens files and sockets that it leaves to the end of the process.
    pytest.mark.filterwarnings('ignore'),
]
WORDS = 'red; green; blue'


def bag_options(*arguments):
    parser = argparse.ArgumentParser()
    add_bag_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture(scope='module')
def ray_here(tmp_path_factory):
    import ray

    flag = tmp_path_factory.mktemp('flag') / 'died'
    os.environ |= {
        'RAY_USAGE_STATS_ENABLED': '0',
        'DIE_ONCE': str(flag),
        'PYTHONPATH': os.pathsep.join([str(Path(__file__).absolute().parent), os.environ.get('PYTHONPATH', '')]),
    }
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False)
    yield flag
    ray.shutdown()


@pytest.fixture
def fleet(write_bag, tmp_path):
    """Two recordings, a file of a third, and one that is damaged."""
    folder = tmp_path / 'fleet'
    (folder / 'monday').mkdir(parents=True)
    write_bag('one', images=8).rename(folder / 'one')
    write_bag('two', images=3, storage='sqlite3', damaged=[1]).rename(folder / 'monday' / 'two')
    (write_bag('three', images=2) / 'three.mcap').rename(folder / 'three.mcap')
    (folder / 'cut.mcap').write_bytes((folder / 'three.mcap').read_bytes()[:-1000])
    return folder


def topics_of(path):
    with Bag(path) as bag:
        return [(entry.topic, time_ns) for entry, time_ns, _ in bag.messages()]


def test_recordings_are_found_at_any_depth(fleet, write_bag, tmp_path):
    from fisa_ros.node.bag_fleet import find_bags

    out = tmp_path / 'out'
    assert find_bags([fleet], out) == {
        fleet / 'cut.mcap': out / 'cut',
        fleet / 'monday' / 'two': out / 'monday' / 'two',
        fleet / 'one': out / 'one',
        fleet / 'three.mcap': out / 'three',
    }
    assert find_bags([fleet / 'monday' / 'two', fleet / 'three.mcap'], out) == {
        fleet / 'monday' / 'two': out / 'two',
        fleet / 'three.mcap': out / 'three',
    }
    # What an earlier call made inside the searched folder is no recording to segment, nor is what it left half done.
    for made in (fleet / 'out' / 'one', fleet / 'one.work' / 'part_00000'):
        made.mkdir(parents=True)
        (made / 'metadata.yaml').write_text('')
        (made / 'one.mcap').write_text('')
    found = find_bags([fleet], fleet / 'out')
    assert sorted(found) == [fleet / 'cut.mcap', fleet / 'monday' / 'two', fleet / 'one', fleet / 'three.mcap']
    assert found[fleet / 'monday' / 'two'] == fleet / 'out' / 'monday' / 'two'
    assert find_bags([fleet / 'monday'], fleet) == {fleet / 'monday' / 'two': fleet / 'two'}
    with pytest.raises(BagError, match='is searched for recordings: name another folder'):
        find_bags([fleet], fleet)
    other = write_bag('other/two', images=1)
    with pytest.raises(BagError, match='would both be written to'):
        find_bags([fleet / 'monday' / 'two', other], out)
    with pytest.raises(BagError, match='is no recording and holds none'):
        find_bags([tmp_path / 'nothing'], out)


def test_a_fleet_is_segmented_although_an_actor_dies(fleet, ray_here, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).absolute().parent)
    from dying_colours import load_colours

    from fisa_ros.node.bag_fleet import find_bags, segment_bags

    options = model_options(bag_options('--vocabulary', WORDS))
    template = BagTask(Path(), Path(), options, part_images=4)
    bags = find_bags([fleet], tmp_path / 'out')
    call = dict(actors=2, cpus_per_actor=1, gpus_per_actor=0, load=load_colours)
    summaries = {Path(summary['source']).name: summary for summary in segment_bags(bags, template, **call)}
    assert ray_here.exists()
    assert {name: summary.get('images') for name, summary in summaries.items()} == {
        'one': 16,
        'two': 6,
        'three.mcap': 4,
        'cut.mcap': None,
    }
    # The actor died in the third part; its successor kept the first two.
    assert summaries['one']['kept'] == 8
    assert [len(summaries[name]['failed']) for name in ('one', 'two', 'three.mcap')] == [0, 1, 0]
    assert 'cannot be read as a recording' in summaries['cut.mcap']['error']
    recorded = topics_of(fleet / 'one')
    made = topics_of(tmp_path / 'out' / 'one')
    assert [entry for entry in made if '/segmentation/' not in entry[0]] == recorded
    assert sum(topic.endswith('/mask') for topic, _ in made) == 16

    again = segment_bags(bags, template, **call)
    assert [summary.get('was_finished') for summary in again] == [None, True, True, True]


@pytest.mark.usefixtures('ray_here')
def test_the_command_prints_a_summary(fleet, tmp_path, capsys):
    arguments = [str(fleet / 'three.mcap'), '--out', str(tmp_path / 'out'), '--device', 'cpu']
    assert main([*arguments, '--json']) == 0
    summary = json.loads(capsys.readouterr().out)
    [bag] = summary['bags']
    assert (bag['images'], bag['failed']) == (4, [])
    assert bag['methods'][0].startswith('fisa-tiny (onnxruntime on cpu, ')
    assert main(arguments) == 0
    assert 'three.mcap: finished before' in capsys.readouterr().out

import pytest

from fisa_ros.pipeline.track_ids import IdPool


def test_unused_ids_first():
    pool = IdPool(quarantine_s=10, max_id=3)
    assert pool.take(0) == 1
    pool.release(1, 0)
    assert [pool.take(1), pool.take(2)] == [2, 3]


def test_an_id_rests():
    pool = IdPool(quarantine_s=10)
    pool.release(pool.take(0), 5)
    assert pool.take(14.9) == 2
    assert pool.take(15) == 1


def test_without_a_rested_id_the_longest_resting_is_taken():
    pool = IdPool(quarantine_s=10, max_id=3)
    taken = [pool.take(0) for _ in range(3)]
    for now_s, track_id in zip((1, 2, 3), (taken[1], taken[0], taken[2]), strict=True):
        pool.release(track_id, now_s)
    assert [pool.take(4) for _ in range(3)] == [2, 1, 3]
    with pytest.raises(ValueError, match=r'all ids 1\.\.3 are in use'):
        pool.take(100)


def test_another_clock():
    pool = IdPool(quarantine_s=10, max_id=2)
    pool.release(pool.take(1000), 1001)
    pool.restart_clock(5)
    assert pool.take(14) == 2
    assert pool.take(15) == 1


@pytest.mark.parametrize('quarantine_s', [-1, float('nan')])
def test_no_negative_rest(quarantine_s):
    with pytest.raises(ValueError, match='quarantine_s must be at least 0'):
        IdPool(quarantine_s)

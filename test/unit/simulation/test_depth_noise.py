import numpy as np

from fisa_ros.simulation.depth_noise import DepthNoise


def step_depth():
    depth = np.full((120, 160), 2.0, np.float32)
    depth[:, 80:] = 4.0
    return depth


def test_no_noise_changes_nothing():
    depth = step_depth()
    np.testing.assert_array_equal(DepthNoise().apply(depth, np.random.default_rng(0)), depth)


def test_noise_grows_with_the_square_of_the_depth():
    depth = step_depth()
    off = DepthNoise(noise_per_m2=0.0025).apply(depth, np.random.default_rng(0)) - depth
    np.testing.assert_allclose(off[:, :80].std(), 0.01, rtol=0.05)
    np.testing.assert_allclose(off[:, 80:].std(), 0.04, rtol=0.05)


def test_holes_cover_their_share_in_patches():
    spoilt = DepthNoise(hole_share=0.2).apply(step_depth(), np.random.default_rng(0))
    holes = np.isnan(spoilt)
    np.testing.assert_allclose(holes.mean(), 0.2, atol=0.01)
    assert (holes[:, 1:] == holes[:, :-1]).mean() > 0.95


def test_pixels_fly_along_edges_only():
    spoilt = DepthNoise(flying_px=2).apply(step_depth(), np.random.default_rng(0))
    changed = np.flatnonzero((spoilt != step_depth()).any(axis=0))
    np.testing.assert_array_equal(changed, [78, 79, 80, 81])
    band = spoilt[:, 78:82]
    assert ((band >= 2.0) & (band <= 4.0)).all()
    assert band.std() > 0.3

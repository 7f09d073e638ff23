import math

import numpy as np
import pytest

from fisa_ros.evaluation.calibration import CalibrationError, fit_temperature, negative_log_likelihood


def test_error_by_hand():
    error = CalibrationError(num_bins=4)
    # (0.5, 0.75]: two answers of 0.6, one right. (0.75, 1]: 0.9 and 1.0, both right.
    error.update([0.6, 0.6], [True, False])
    error.update([0.9, 1.0], [True, True])
    assert error.compute() == pytest.approx((2 * abs(0.6 - 0.5) + 2 * abs(0.95 - 1.0)) / 4)


def test_edges_belong_to_the_lower_bin():
    error = CalibrationError(num_bins=2)
    error.update([0.5, 0.5, 1.0, 0.0], [True, False, True, False])
    assert error.compute() == pytest.approx((3 * abs(1 / 3 - 1 / 3) + 0) / 4)


def test_believable_answers_have_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    error = CalibrationError()
    error.update(confidence, rng.random(200_000) < confidence)
    assert error.compute() < 0.01


def test_nothing_is_not_a_number():
    error = CalibrationError()
    error.update([], [])
    assert math.isnan(error.compute())


def test_likelihood_by_hand():
    probabilities = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    assert negative_log_likelihood(probabilities, np.array([0, 2])) == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2)
    squared = np.array([0.25, 0.0625, 0.0625])
    assert negative_log_likelihood(probabilities[:1], np.array([0]), 0.5) == pytest.approx(
        -np.log(0.25 / squared.sum())
    )


@pytest.mark.parametrize('true_temperature', [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_answers_is_found(true_temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (20_000, 5))
    noise = -np.log(-np.log(rng.random(logits.shape)))
    targets = (logits / true_temperature + noise).argmax(axis=1)
    assert fit_temperature(logits, targets) == pytest.approx(true_temperature, rel=0.05)


def test_hopeless_answers_end_at_the_limits():
    logits = np.array([[2.0, 0.0], [3.0, 0.0]])
    assert fit_temperature(logits, np.array([0, 0])) == pytest.approx(0.05, abs=0.02)
    assert fit_temperature(logits, np.array([1, 1])) == pytest.approx(20, rel=0.01)

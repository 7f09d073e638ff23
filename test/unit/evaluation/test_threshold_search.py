from dataclasses import replace

import pytest

from fisa_ros.core.thresholds import Thresholds
from fisa_ros.evaluation.threshold_search import MAX_TRIALS, best_trial, search_thresholds

START = Thresholds(score=0.33, mask=0.5, overlap=0.5, objectness_trust=0.5)


def test_the_peak_is_found_and_nothing_is_measured_twice():
    measured = []

    def peak(thresholds):
        measured.append(thresholds)
        return -((thresholds.score - 0.6) ** 2) - (thresholds.mask - 0.35) ** 2 - (thresholds.overlap - 0.79) ** 2

    trials = search_thresholds(peak, START)
    assert best_trial(trials).thresholds == replace(START, score=0.6, mask=0.35, overlap=0.8)
    assert len(measured) == len(set(measured)) == len(trials) <= MAX_TRIALS
    assert trials[0].thresholds == START


def test_thresholds_that_depend_on_each_other():
    def ridge(thresholds):
        return -abs(thresholds.score - thresholds.overlap) - 0.5 * abs(thresholds.overlap - 0.7)

    assert best_trial(search_thresholds(ridge, START)).score > ridge(START)


def test_the_start_stays_where_nothing_is_better():
    assert best_trial(search_thresholds(lambda thresholds: 0.0, START)).thresholds == START
    only_here = best_trial(search_thresholds(lambda thresholds: float(thresholds == START), START))
    assert only_here.thresholds == START
    assert only_here.score == pytest.approx(1)

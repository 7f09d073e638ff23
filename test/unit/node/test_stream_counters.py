import pytest

from fisa_ros.node.stream_counters import StreamCounters


def test_totals_stay_and_maxima_are_of_the_last_period() -> None:
    counters = StreamCounters()
    for is_drop in (False, True, False):
        counters.add_received(is_drop)
    counters.add_answer(latency_s=0.1, inference_s=0.05, age_s=0.2)
    counters.add_answer(latency_s=0.3, inference_s=0.04, age_s=0.1)
    counters.add_refusal('too dark')
    report = counters.report()
    assert (report.received, report.answered, report.dropped, report.refused) == (3, 2, 1, 1)
    assert (report.max_latency_ms, report.max_inference_ms, report.max_age_ms) == (300.0, 50.0, 200.0)
    assert report.mean_inference_ms == pytest.approx(45.0)
    assert report.recently_refused == 1
    assert report.input_rate_hz > report.output_rate_hz > 0

    quiet = counters.report()
    assert (quiet.received, quiet.refused, quiet.recently_refused, quiet.last_error) == (3, 1, 0, 'too dark')
    assert (quiet.input_rate_hz, quiet.output_rate_hz, quiet.max_latency_ms) == (0.0, 0.0, None)
    assert quiet.mean_inference_ms is None

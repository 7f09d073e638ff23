import cv2
import pytest

from fisa_ros.evaluation.timing_plots import plot_sweep


def times(value):
    return {'n': 5, 'mean': value, 'p50': value, 'p95': 1.2 * value, 'p99': 1.3 * value}


@pytest.mark.parametrize('kind', ['total_ms', 'latency_ms'])
def test_bars_rise_with_the_time(tmp_path, kind):
    rows = []
    for words, factor in ((1, 1.0), (10, 1.5), (100, 2.0)):
        row = {
            'words': words,
            kind: times(100 * factor),
            'ratio': {'value': factor, 'low': 0.9 * factor, 'high': 1.1 * factor},
        }
        if kind == 'total_ms':
            row['stages_ms'] = {'resize': times(0.01), 'encoder': times(80 * factor), 'head': times(15 * factor)}
        rows.append(row)
    plot_sweep(tmp_path / 'plot.png', rows, 'words', 'words', 'title')
    picture = cv2.imread(str(tmp_path / 'plot.png')).astype(int)
    assert picture.shape[1] > 1000
    left = picture[:, : picture.shape[1] * 3 // 5]
    is_colored = left.max(axis=2) - left.min(axis=2) > 60
    columns = is_colored[:-100].sum(axis=0)
    heights = [part.max() for part in (columns[60:260], columns[260:480], columns[480:])]
    assert 0 < heights[0] < heights[1] < heights[2]

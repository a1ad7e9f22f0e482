"""Intervals of groups drawn with replacement, against loops of NumPy and against what is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.metrics import bootstrap
from jaxrec.metrics.bootstrap import auc_samples, interval, mean_samples
from jaxrec.metrics.clicks import auc

GROUPS = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
RANDOM = np.random.default_rng(7)
SCORES, LABELS = RANDOM.integers(0, 5, 10) / 4, np.array([1, 0, 1, 0, 1, 0, 0, 1, 0, 0])


def rows_of_each(repetitions: int, seed: int) -> list[np.ndarray]:
    """The rows of every repetition: those of four groups drawn one by one."""
    random = np.random.default_rng(seed)
    drawn = [random.integers(4, size=4) for _ in range(repetitions)]
    return [np.concatenate([np.flatnonzero(group == GROUPS) for group in groups]) for groups in drawn]


@pytest.mark.parametrize("cells", [1, 9, 2**22])
def test_samples_are_those_of_a_loop_over_drawn_groups(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CELLS", cells)
    values = RANDOM.normal(size=(10, 3))
    rows = rows_of_each(50, seed=5)
    np.testing.assert_allclose(mean_samples(values, GROUPS, 50, 5), [values[one].mean(axis=0) for one in rows])
    wanted = [auc(SCORES[one], LABELS[one]) for one in rows]  # nan where a class is missing
    np.testing.assert_allclose(auc_samples(SCORES, LABELS, GROUPS, 50, 5), wanted)


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    """Of 4,000 independent values; in groups of ten equal ones it is sqrt(10) times as wide."""
    values = np.random.default_rng(0).normal(0.3, 2.0, 4000)
    half = 1.96 * 2.0 / np.sqrt(4000)
    mean, low, high = interval(float(values.mean()), mean_samples(values[:, None], np.arange(4000))[:, 0])
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)
    grouped = mean_samples(np.repeat(values[:400], 10)[:, None], np.repeat(np.arange(400), 10))[:, 0]
    _, low, high = interval(0.0, grouped)
    assert (high - low) / 2 == pytest.approx(half * np.sqrt(10), rel=0.1)


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    """What two rankers share cancels: the difference of paired samples has the width of the difference itself."""
    random = np.random.default_rng(1)
    shared, own = random.normal(size=(2000, 1)), random.normal(0.0, 0.1, (2000, 2))
    values = shared + own + np.array([0.0, 0.02])
    samples = mean_samples(values, np.arange(2000))
    found = interval(float(np.diff(values.mean(axis=0))[0]), samples[:, 1] - samples[:, 0])
    half = 1.96 * np.std(values[:, 1] - values[:, 0]) / np.sqrt(2000)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.excludes_zero and not interval(0.0, samples[:, 0] - samples[:, 0]).excludes_zero
    alone = [interval(0.0, samples[:, column]) for column in (0, 1)]
    assert min(one.high - one.low for one in alone) > 5 * (found.high - found.low)

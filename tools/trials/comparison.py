"""The statistics of two arms, over the seeds that they share."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, permutation_test


class Estimate(NamedTuple):
    """A mean with its 95 % interval.

    Args:
        value (float): The mean.
        low (float): Lower end of the interval.
        high (float): Upper end.
    """

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """How much better one arm is than another.

    Args:
        n (int): Number of common seeds.
        difference (Estimate): Of the metric.
        better (Estimate): Share of seeds in which it is better; a tie counts one half.
        p (float): That of the two-sided sign-flip permutation test.
    """

    n: int
    difference: Estimate
    better: Estimate
    p: float


def compare(values: dict[int, float], others: dict[int, float]) -> Comparison | None:
    """Compare two arms, given by seed. None for less than two common seeds."""
    seeds = sorted(values.keys() & others.keys())
    if len(seeds) < 2:
        return None
    # Metrics are rounded to four digits: what lies below is no difference.
    differences = np.round([values[seed] - others[seed] for seed in seeds], 6)
    test = permutation_test((differences, ), np.mean, permutation_type='samples', vectorized=True,
                            n_resamples=19_999, rng=np.random.default_rng(0))
    return Comparison(len(seeds), _estimate(differences),
                      _estimate((np.sign(differences) + 1) / 2), float(test.pvalue))


def _estimate(values: np.ndarray) -> Estimate:
    # Unlike the default, percentiles also exist where all values are equal.
    interval = bootstrap((values, ), np.mean, method='percentile', n_resamples=9999,
                         rng=np.random.default_rng(0)).confidence_interval
    return Estimate(float(values.mean()), float(interval.low), float(interval.high))


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values of several tests by the method of Holm, in the order given."""
    order = np.argsort(p_values, kind='stable')
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.minimum(np.asarray(p_values)[order] * factors, 1))
    return corrected.tolist()


def judge(comparison: Comparison, p: float, least: float) -> str:
    """Put a confirmed comparison into words.

    Args:
        comparison (Comparison): It.
        p (float): Its p value after the correction.
        least (float): The least effect of interest.

    Returns:
        str: One of ``'better'``, ``'worse'``, both perhaps with more, ``'no difference of
        interest'`` and ``'undecided'``.
    """
    _, low, high = comparison.difference
    is_small = -least < low and high < least
    if p >= 0.05 or low <= 0 <= high:
        return 'no difference of interest' if is_small else 'undecided'
    word = 'better' if low > 0 else 'worse'
    if is_small:
        return f'{word}, by less than is of interest'
    return f'{word}, at least of interest' if min(abs(low), abs(high)) >= least else word

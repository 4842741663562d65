"""Bins of confidences against the formula."""
import math

import numpy as np
import pytest
import torch

from mmakd.metrics.calibration_bins import CalibrationBins
from tests.metrics.formulas import numpy_ece


@pytest.mark.parametrize('number', [1, 7, 20])
def test_ece_is_the_formula_over_all_batches(number):
    generator = np.random.default_rng(0)
    confidence = generator.random(1000)
    confidence[:3] = 0, 1, 0.5
    correct = generator.random(1000) < confidence**2
    bins = CalibrationBins(number)
    assert bins.ece() is None
    for part in np.split(np.arange(1000), [100, 150]):
        bins.update(torch.from_numpy(confidence[part]), torch.from_numpy(correct[part]))
    assert bins.ece() == pytest.approx(numpy_ece(confidence, correct, number))
    assert bins.ece() > 0.1
    # Of other processes only the sums are added.
    other = CalibrationBins(number)
    other.sums += bins.sums
    bins.update(torch.from_numpy(confidence), torch.from_numpy(correct))
    other.update(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert torch.equal(other.sums, bins.sums) and bins.sums[0].sum() == 2000


def test_by_hand():
    bins = CalibrationBins(2)
    bins.update(torch.tensor([0.25, 0.375, 0.75, 1.0]), torch.tensor([True, False, True, True]))
    assert bins.sums.tolist() == [[2, 2], [1, 2], [0.625, 1.75]]
    assert bins.ece() == (0.375 + 0.25) / 4


def test_a_confidence_that_is_no_number_makes_none_of_the_error():
    bins = CalibrationBins()
    bins.update(torch.tensor([0.5, float('nan')]), torch.tensor([True, False]))
    assert math.isnan(bins.ece())

"""Calibration of a segmentor."""
from mmengine.registry import METRICS

from .calibration_error import CalibrationError
from .outcomes import Outcomes, segmentation_outcomes


@METRICS.register_module()
class SegECE(CalibrationError):
    """Expected calibration error of a segmentor's pixels; see :class:`CalibrationError`.

    The confidence of a pixel is the probability of its most probable class, at the size of the
    label map. Logged as ``calibration/ECE``, beside ``IoUMetric``.

    Args:
        num_bins (int): Number of bins. Defaults to 20.
        ignore_index (int): Label of the pixels that are left out. Defaults to 255.
        collect_device, prefix: Those of :class:`CalibrationError`.
    """

    def __init__(self, num_bins: int = 20, ignore_index: int = 255, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(num_bins, collect_device, prefix)
        self.ignore_index = ignore_index

    def outcomes(self, sample: dict) -> Outcomes:
        """Find which pixels of one image are right."""
        return segmentation_outcomes(sample, self.ignore_index)

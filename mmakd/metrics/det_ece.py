"""Calibration of a detector."""
from mmengine.registry import METRICS

from ..utils.errors import ConfigProblems, is_number
from .calibration_error import CalibrationError
from .outcomes import Outcomes, detection_outcomes


@METRICS.register_module()
class DetECE(CalibrationError):
    """Expected calibration error of a detector's boxes; see :class:`CalibrationError`.

    The confidence of a detection is its score. It is right if it overlaps a box of its class by
    ``iou_thr`` or more that no detection with a higher score has taken. Boxes that are not found
    do not count. Logged as ``calibration/ECE``, beside ``CocoMetric``.

    The validation pipeline has to load the boxes behind ``Resize``, as mmdet's own do, so that
    they are on the scale of the original image.

    Args:
        num_bins (int): Number of bins. Defaults to 20.
        iou_thr (float): Least IoU in (0, 1]. Defaults to 0.5.
        collect_device, prefix: Those of :class:`CalibrationError`.
    """

    def __init__(self, num_bins: int = 20, iou_thr: float = 0.5, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        problems = ConfigProblems()
        with problems.under(''):
            super().__init__(num_bins, collect_device, prefix)
        if not is_number(iou_thr) or not 0 < iou_thr <= 1:
            problems.add(f'iou_thr={iou_thr!r}: must be a number in (0, 1], e.g. 0.5')
        problems.raise_if_any()
        self.iou_thr = iou_thr

    def outcomes(self, sample: dict) -> Outcomes:
        """Find which detections of one image are right."""
        return detection_outcomes(sample, self.iou_thr)

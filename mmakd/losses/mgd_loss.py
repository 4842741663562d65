"""Masked generative distillation."""
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import ConfigProblems, check_numbers, is_number
from .features import FeatureLoss, known_channels


@MODELS.register_module()
class MGDLoss(FeatureLoss):
    r"""Restores the teacher's map from a masked student map by a small network.

    MGD (arXiv 2205.01529, Eq. 4 and 5): random positions of the student's map are zeroed, the
    same in all channels, and a generator conv3x3-ReLU-conv3x3 fills them in:
    :math:`\frac{\alpha}{N} \sum (G(S M) - T)^2`. The generator is trained with the student.

    The mask is drawn from torch's global stream, as dropout is.

    Args:
        alpha_mgd (float): Weight alpha, >= 0. Defaults to 2e-5, published for one-stage
            detectors.
        lambda_mgd (float): Fraction lambda in [0, 1) of positions that are masked. Defaults to
            0.65.
        loss_weight (float): Factor on the loss beside alpha. Defaults to 1.0.
        channels (int, optional): Channels of the maps; set by the distiller. Defaults to None,
            which is an error.
    """

    maps_only = True

    def __init__(self, alpha_mgd: float = 2e-5, lambda_mgd: float = 0.65,
                 loss_weight: float = 1.0, channels: int | None = None) -> None:
        problems = ConfigProblems()
        with problems.under(''):
            check_numbers(not_negative=dict(alpha_mgd=alpha_mgd, loss_weight=loss_weight))
        if not is_number(lambda_mgd) or not 0 <= lambda_mgd < 1:
            problems.add(f'lambda_mgd={lambda_mgd!r}: must be a number in [0, 1), e.g. 0.65')
        problems.raise_if_any()
        super().__init__(loss_weight)
        channels = known_channels(channels, 'MGDLoss')
        self.alpha_mgd = alpha_mgd
        self.lambda_mgd = lambda_mgd
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1))

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        number, _, height, width = preds_S.shape
        draws = torch.rand(number, 1, height, width, device=preds_S.device)
        restored = self.generation(preds_S * (draws <= 1 - self.lambda_mgd))
        difference = F.mse_loss(restored, preds_T, reduction='sum')
        return self.loss_weight * self.alpha_mgd / number * difference

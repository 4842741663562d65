"""Distillation of predictions as distributions, and of how they correlate."""
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..avatars import Perturbation
from ..utils.build import build
from ..utils.errors import ConfigError, ConfigProblems, check_numbers, suggest
from .features import FeatureLoss
from .seeded_draws import SeededDraws

_SOURCES = ('bins', 'avatars')
_SIDES = 4
# So that no Gaussian is a point, where all values of a map are equal.
_LEAST = 1e-12
_TOGETHER = 8


@MODELS.register_module()
class DistributionCorrelationLoss(FeatureLoss, SeededDraws):
    r"""Divergence of Gaussian predictions, and of the relations between their positions.

    Distributional, correlation-aware distillation (arXiv 2208.07232), in dense-prediction form.
    Each value of a map is a Gaussian :math:`N(\mu, s^2)`, of the student and of the teacher:
    :math:`KL(T \| S) + w_d\,L1(D^T, D^S) + w_a\,L1(A^T, A^S)`, the means over images, channels and
    positions, with smooth L1 norms of relations between positions i and j in one channel,

    - distance, the symmetric KL divergence:
      :math:`D_{ij} = \frac{(s_i^2 - s_j^2)^2}{2 s_i^2 s_j^2} + \frac{(\mu_i - \mu_j)^2}{2}
      (\frac{1}{s_i^2} + \frac{1}{s_j^2})`;
    - angle, the cosine of the two densities: :math:`A_{ij} = \sqrt{\frac{2 s_i s_j}{s_i^2 +
      s_j^2}} \exp(-\frac{(\mu_i - \mu_j)^2}{2 (s_i^2 + s_j^2)})`.

    In each call the positions are drawn anew from all images, the same for student and teacher,
    with their own random stream. Memory is that of maps, and of matrices of ``num_positions``
    squared.

    Args:
        source (str): ``'bins'``: a map holds, for each of the four sides of a box, logits of
            ``num_bins`` distances, as ``bbox_head.gfl_reg`` of GFL (arXiv 2006.04388). mu and s^2
            are those of the softmax; 1/12, the variance within a bin, is added to s^2.
            ``'avatars'``: mu is the map itself, and s^2 the closed-form variance of its Avatars;
            the mean variance of the teacher's is added to both, since a student without training
            and values at the mean of a channel hardly vary. Defaults to ``'bins'``.
        distance_weight (float): Weight w_d >= 0. Defaults to 5.0.
        angle_weight (float): Weight w_a >= 0. Defaults to 5.0.
        num_positions (int): Number of positions that are related. Defaults to 256.
        num_bins (int): Bins of a side, the head's ``reg_max + 1``; of no effect for
            ``'avatars'``. Defaults to 17, that of mmdet's GFL.
        perturbation (dict): What makes the Avatars, with a closed-form variance; of no effect for
            ``'bins'``. Defaults to ``dict(type='DropoutPerturbation', drop_rate=0.1)``.
        loss_weight (float): Factor on the whole loss. Defaults to 1.0.
        channels (int, optional): Channels of the maps; set by the distiller. Defaults to None.
    """

    def __init__(self, source: Literal['bins', 'avatars'] = 'bins', distance_weight: float = 5.0,
                 angle_weight: float = 5.0, num_positions: int = 256, num_bins: int = 17,
                 perturbation: dict = dict(type='DropoutPerturbation', drop_rate=0.1),  # noqa: B006
                 loss_weight: float = 1.0, channels: int | None = None) -> None:
        problems = ConfigProblems()
        if source not in _SOURCES:
            problems.add(f'source={source!r}: {suggest(source, _SOURCES)}')
        with problems.under(''):
            check_numbers(not_negative=dict(distance_weight=distance_weight,
                                            angle_weight=angle_weight, loss_weight=loss_weight))
        if type(num_positions) is not int or num_positions < 2:
            problems.add(f'num_positions={num_positions!r}: must be an integer >= 2, e.g. 256')
        if type(num_bins) is not int or num_bins < 2:
            problems.add(f'num_bins={num_bins!r}: must be an integer >= 2, e.g. 17')
        elif source == 'bins' and channels not in (None, _SIDES * num_bins):
            problems.add(f'num_bins={num_bins}: the map has {channels} channels, not {num_bins} '
                         "for each of 4 sides; tap a head with distributions, such as "
                         "'bbox_head.gfl_reg', and give its reg_max + 1")
        problems.raise_if_any()
        super().__init__(loss_weight)
        self.source = source
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.num_positions = num_positions
        self.num_bins = num_bins
        if source == 'avatars':
            self.perturbation = _build_perturbation(perturbation)

    def compare(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss; see :meth:`FeatureLoss.forward`."""
        (mean_S, variance_S), (mean_T, variance_T) = self._gaussians(preds_S, preds_T.detach())
        gap, ratio = (mean_S - mean_T).square(), variance_T / variance_S
        loss = (ratio - 1 - ratio.log() + gap / variance_S).mean() / 2
        draws = torch.Generator(preds_S.device).manual_seed(self.next_seed())
        chosen = torch.randperm(mean_S.size(1), generator=draws, device=preds_S.device)
        chosen = chosen[:self.num_positions]
        # A few channels at a time, whose matrices the backward pass computes again: memory does
        # not grow with the channels.
        related = sum(
            checkpoint(self._relate, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(*(value[:, chosen].split(_TOGETHER) for value in (
                mean_S, variance_S, mean_T, variance_T))))
        return self.loss_weight * (loss + related / (len(mean_S) * len(chosen)**2))

    def _relate(self, mean_S: Tensor, variance_S: Tensor, mean_T: Tensor, variance_T: Tensor
                ) -> Tensor:
        """Compare the relations, each weighted, summed over channels and pairs."""
        return torch.stack([
            weight * F.smooth_l1_loss(of_student, of_teacher, reduction='sum')
            for weight, of_student, of_teacher in zip(
                (self.distance_weight, self.angle_weight), relations(mean_S, variance_S),
                relations(mean_T, variance_T))]).sum()

    def _gaussians(self, preds_S: Tensor, preds_T: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute mean and variance of both sides, each (D, positions)."""
        if self.source == 'bins':
            return [self._of_bins(feature) for feature in (preds_S, preds_T)]
        perturbation: Any = self.perturbation
        variances = [perturbation.variance(feature).expand_as(feature)
                     for feature in (preds_S, preds_T)]
        least = variances[1].mean().clamp(min=_LEAST)
        return [(_by_channel(feature), _by_channel(variance + least))
                for feature, variance in zip((preds_S, preds_T), variances)]

    def _of_bins(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        if feature.size(1) != _SIDES * self.num_bins:
            raise ValueError(f'DistributionCorrelationLoss: {feature.size(1)} channels are not '
                             f'num_bins={self.num_bins} for each of 4 sides')
        shares = _by_channel(feature).unflatten(0, (_SIDES, self.num_bins)).softmax(1)
        bins = torch.arange(self.num_bins, device=feature.device)[:, None]
        mean = (shares * bins).sum(1)
        return mean, (shares * (bins - mean[:, None]).square()).sum(1) + 1 / 12


def _by_channel(feature: Tensor) -> Tensor:
    """Lay the positions of all images side by side, (C, N H W)."""
    return feature.transpose(0, 1).flatten(1)


def relations(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Relate the Gaussians of n positions.

    Args:
        mean (Tensor): (C, n), for C channels.
        variance (Tensor): Likewise, > 0.

    Returns:
        tuple[Tensor, Tensor]: Distances and angles, both (C, n, n).
    """
    # Of ratios, which neither overflow nor vanish with the scale of a map.
    ratio = variance[:, :, None] / variance[:, None]
    gap = (mean[:, :, None] - mean[:, None]).square()
    to_first = gap / variance[:, :, None]
    distance = (ratio + ratio.mT + to_first + to_first.mT) / 2 - 1
    root = ratio.sqrt()
    angle = (2 / (root + root.mT)).sqrt() * torch.exp(
        -gap / (2 * (variance[:, :, None] + variance[:, None])))
    return distance, angle


def _build_perturbation(cfg: dict) -> Perturbation:
    try:
        perturbation = build(cfg)
    except ConfigError as error:
        raise ConfigError([f'perturbation.{problem}' for problem in error.problems]) from error
    variance = None
    if isinstance(perturbation, Perturbation):
        variance = perturbation.variance(torch.tensor([[[[0.0, 1.0]]]]))
    if variance is None or not variance.any():
        raise ConfigError(f'perturbation={cfg!r}: gives no variance in closed form; give e.g. '
                          "dict(type='DropoutPerturbation', drop_rate=0.1)")
    return perturbation

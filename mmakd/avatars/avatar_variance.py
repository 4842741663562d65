"""sigma: how far the Avatars spread about the teacher's feature."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..utils.errors import ConfigProblems, check_numbers, is_number
from .perturbation import Perturbation


@MODELS.register_module()
class AvatarVariance(nn.Module):
    """Weights the channels of one map by the uncertainty of its Avatars (arXiv 2305.02722).

    ``u(x) = E_k[(A_k - T)^2]``, ``sigma^2 = E_x[u(x)]``: per channel, averaged over the batch, its
    positions and all ranks, then over time by a bias-corrected running average. Student and
    Avatars are divided by sigma. It carries no gradient.

    Args:
        momentum (float): Weight in (0, 1] of the newest batch in the running average of
            ``sigma^2``. Defaults to 0.1.
        estimator (str): ``'closed_form'`` takes the perturbation's own ``variance``, one reduction
            and no sampling; ``'sampled'`` averages over the K Avatars drawn, for perturbations
            without a closed form. Defaults to ``'closed_form'``.
        rescale (bool): Whether one detached scalar brings the normalised teacher map of the batch
            to unit root mean square, so that sigma only weights the channels against each other
            and the drop rate does not act as a temperature. False divides by sigma alone, the
            paper to the letter. Defaults to True.
        eps (float): The least ``sigma^2``: with ``rescale`` a fraction of its mean over channels,
            so that the scale of the features has no influence; without, as it is. Defaults to
            1e-6.

    Raises:
        ConfigError: If ``momentum`` is outside (0, 1], ``estimator`` is unknown or ``eps`` is
            negative.
    """

    running_variance: Tensor
    running_weight: Tensor

    def __init__(self, momentum: float = 0.1, estimator: str = 'closed_form',
                 rescale: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        problems = ConfigProblems()
        if not is_number(momentum) or not 0 < momentum <= 1:
            problems.add(f'momentum={momentum!r}: must be a number in (0, 1], e.g. 0.1')
        if estimator not in ('closed_form', 'sampled'):
            problems.add(f"estimator={estimator!r}: must be 'closed_form' or 'sampled'")
        with problems.under(''):
            check_numbers(not_negative=dict(eps=eps))
        problems.raise_if_any()
        self.momentum = momentum
        self.estimator = estimator
        self.rescale = rescale
        self.eps = eps
        # Empty until the first map shows the number of channels.
        self.register_buffer('running_variance', torch.zeros(0))
        self.register_buffer('running_weight', torch.zeros(()))

    @property
    def sigma(self) -> Tensor:
        """Tensor: The running sigma (1, C, 1, 1); NaN before the first training batch."""
        return self._floored(self.running_variance / self.running_weight).sqrt().view(1, -1, 1, 1)

    def forward(self, feature: Tensor, perturbation: Perturbation,
                avatars: Sequence[Tensor] = ()) -> Callable[[Tensor], Tensor]:
        """Update sigma by a batch (in train mode only) and give the division by it.

        Args:
            feature (Tensor): Teacher map (N, C, H, W), float32.
            perturbation (Perturbation): What makes the Avatars.
            avatars (Sequence[Tensor]): The Avatars of the feature; needed by ``'sampled'`` only.
                Defaults to ().

        Returns:
            Callable: From a map (N, C, H, W) to the map divided by sigma.

        Raises:
            ValueError: If the perturbation has no closed form and the estimator asks for it.
        """
        with torch.no_grad():
            variance, square, count = self._batch_statistics(feature, perturbation, avatars)
            if self.running_variance.numel() == 0:
                self.running_variance = torch.zeros_like(variance)
            if self.training:
                # A batch without a position, as of RoIs, has nothing to say.
                momentum = torch.where(count > 0, self.momentum, 0.0)
                self.running_variance.lerp_(variance, momentum)
                self.running_weight.lerp_(torch.ones_like(self.running_weight), momentum)
                variance = self.running_variance / self.running_weight
            else:
                # Before the first training batch there is only this one to go by.
                variance = torch.where(self.running_weight > 0,
                                       self.running_variance / self.running_weight, variance)
            weight = _safe_rsqrt(self._floored(variance))
            if self.rescale:
                weight = weight * _safe_rsqrt((square * weight.square()).mean())
            weight = weight.view(1, -1, 1, 1)
        return weight.mul

    def _floored(self, variance: Tensor) -> Tensor:
        return torch.maximum(variance, self.eps * (
            variance.mean() if self.rescale else variance.new_ones(())))

    def _batch_statistics(self, feature: Tensor, perturbation: Perturbation,
                          avatars: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Average ``u`` and ``T^2`` per channel over batch and ranks, and count positions."""
        if self.estimator == 'sampled':
            spread = torch.zeros_like(feature)
            for avatar in avatars:
                spread += (avatar - feature).square_() / len(avatars)
        else:
            closed_form = perturbation.variance(feature)
            if closed_form is None:
                raise ValueError(f'{type(perturbation).__name__} has no closed form; '
                                 "set uncertainty.estimator='sampled'")
            spread = closed_form
        spread = spread.expand_as(feature)
        # Sums, since ranks hold maps of unlike sizes.
        total = torch.cat([spread.sum((0, 2, 3)), feature.square().sum((0, 2, 3)),
                           feature.new_tensor([feature.numel() / feature.size(1)])])
        if self.training:
            all_reduce(total)
        variance, square = (total[:-1] / total[-1].clamp(min=1)).view(2, -1)
        return variance, square, total[-1]

    def reset(self) -> None:
        """Forget every batch."""
        self.running_variance = self.running_variance.new_zeros(0)
        self.running_weight.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        loaded = state_dict.get(f'{prefix}running_variance')
        if loaded is not None and self.running_variance.numel() == 0:
            self.running_variance = self.running_variance.new_zeros(loaded.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Show the settings in ``print(model)``."""
        return (f'momentum={self.momentum}, estimator={self.estimator!r}, rescale={self.rescale}, '
                f'eps={self.eps}')


def _safe_rsqrt(square: Tensor) -> Tensor:
    """Compute ``1 / sqrt(square)``, and 1 where nothing is there to divide by."""
    return torch.where(square > 0, square, 1.0).rsqrt()

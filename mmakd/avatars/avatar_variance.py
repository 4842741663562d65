"""sigma: the spread of the Avatars about the teacher's feature."""
from typing import Any, Literal

import torch
from mmengine.dist import all_reduce
from mmengine.registry import MODELS
from torch import Tensor

from ..utils.errors import ConfigError, ConfigProblems, check_numbers, is_number
from .perturbation import show_settings
from .uncertainty import Uncertainty

_RESCALES = ('teacher', 'unit', None)
_STATE = ('running_variance', 'running_weight')


@MODELS.register_module()
class AvatarVariance(Uncertainty):
    """Weights the channels of one map by the uncertainty of its Avatars (arXiv 2305.02722).

    ``u(x) = E_k[(A_k - T)^2]``, ``sigma^2 = E_x[u(x)]``: per channel, averaged over the batch, its
    positions and all ranks, then over time by a bias-corrected running average. Student and
    Avatars are divided by sigma. It carries no gradient.

    Args:
        momentum (float): Weight in (0, 1] of the newest batch in the running average of
            ``sigma^2``. Defaults to 0.1.
        estimator (str): ``'closed_form'`` takes the perturbation's own ``variance``, one reduction
            and no sampling; ``'sampled'`` averages over the K Avatars drawn, for Avatars without a
            closed form. Defaults to ``'closed_form'``.
        rescale (str, optional): ``'teacher'``: one detached scalar gives the normalised teacher
            map of the batch the root mean square of the map itself. So sigma only weights the
            channels against each other, and ``tau`` and ``loss_weight`` of the criterion keep
            their meaning. ``'unit'``: it gives unit root mean square. None: maps are only divided
            by sigma, the paper to the letter. Defaults to ``'teacher'``.
        eps (float): Lower bound of ``sigma^2``: with ``rescale`` a fraction of its mean over
            channels, which is independent of the features' scale; otherwise absolute. Defaults to
            1e-6.
        channels (int, optional): Channels of the map; found by the distiller. Defaults to None,
            those of the first map.
    """

    running_variance: Tensor
    running_weight: Tensor

    def __init__(self, momentum: float = 0.1, estimator: str = 'closed_form',
                 rescale: Literal['teacher', 'unit'] | None = 'teacher', eps: float = 1e-6,
                 channels: int | None = None) -> None:
        super().__init__()
        problems = ConfigProblems()
        if not is_number(momentum) or not 0 < momentum <= 1:
            problems.add(f'momentum={momentum!r}: must be a number in (0, 1], e.g. 0.1')
        if estimator not in ('closed_form', 'sampled'):
            problems.add(f"estimator={estimator!r}: must be 'closed_form' or 'sampled'")
        if rescale not in _RESCALES:
            problems.add(f"rescale={rescale!r}: must be 'teacher', 'unit' (formerly True) or None "
                         '(formerly False)')
        if channels is not None and (type(channels) is not int or channels < 1):
            problems.add(f'channels={channels!r}: must be None or an integer >= 1')
        with problems.under(''):
            check_numbers(not_negative=dict(eps=eps))
        problems.raise_if_any()
        self.momentum = momentum
        self.estimator = estimator
        self.rescale = rescale
        self.eps = eps
        state = torch.zeros(channels or 0), torch.zeros(())
        for name, value in zip(_STATE, state):
            # Buffers of a size that is found later would not be those of a copy (EMA) made before.
            if channels:
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self._factor = torch.tensor(torch.nan)

    @property
    def sigma(self) -> Tensor:
        """Tensor: The running sigma (1, C, 1, 1); NaN before the first training batch."""
        return self._floored(self.running_variance / self.running_weight).sqrt().view(1, -1, 1, 1)

    @torch.no_grad()
    def update(self, feature: Tensor, spread: Tensor | None) -> None:
        """Add a batch to the running average; see :meth:`Uncertainty.update`.

        A batch that is not finite, or without any position (as of RoIs), leaves the average as it
        is.

        Raises:
            ConfigError: If there is no spread.
        """
        if spread is None:
            raise ConfigError("uncertainty.estimator='closed_form': the perturbation has no "
                              "closed form (its variance is None); set 'sampled'")
        # Positions differ between ranks.
        positions = feature.new_full((1, ), feature.numel() / feature.size(1))
        sums = torch.cat([spread.expand_as(feature).sum((0, 2, 3)),
                          feature.square().sum((0, 2, 3)), positions])
        if self.training:
            all_reduce(sums)
        variance, square = (sums[:-1] / sums[-1].clamp(min=1)).view(2, -1)
        if not self.running_variance.numel():
            self.running_variance = torch.zeros_like(variance)
        if not self._buffers:
            self.running_variance, self.running_weight = (
                getattr(self, name).to(variance.device) for name in _STATE)
        if self.training:
            # Decided on the device, so that the host does not wait for it.
            is_usable = (sums[-1] > 0) & sums.isfinite().all()
            momentum = torch.where(is_usable, self.momentum, 0.0)
            variance = torch.where(is_usable, variance, self.running_variance)
            self.running_variance.lerp_(variance, momentum)
            self.running_weight.lerp_(torch.ones_like(self.running_weight), momentum)
            variance = self.running_variance / self.running_weight
        else:
            # Before the first training batch there is only this one to go by.
            variance = torch.where(self.running_weight > 0,
                                   self.running_variance / self.running_weight, variance)
        factor = _safe_rsqrt(self._floored(variance))
        if self.rescale:
            # Relative to the largest, so that equal sigmas keep the map exactly as it is.
            factor = factor / factor.max()
            mean_square = (square * factor.square()).mean()
            wanted = square.mean() if self.rescale == 'teacher' else 1.0
            factor = factor * torch.where(mean_square > 0, wanted / mean_square, 1.0).sqrt()
        self._factor = factor.view(1, -1, 1, 1)

    def scale(self, feature: Tensor) -> Tensor:
        """Divide a map by sigma, and rescale it; see :meth:`Uncertainty.scale`."""
        return feature * self._factor

    def _floored(self, variance: Tensor) -> Tensor:
        return torch.maximum(variance, self.eps * (
            variance.mean() if self.rescale else variance.new_ones(())))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str,
                            keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self._buffers and self.running_variance.numel():
            destination.update({f'{prefix}{name}': getattr(self, name) for name in _STATE})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self._buffers:
            super()._load_from_state_dict(state_dict, prefix, *args)
            return
        for name in _STATE:
            if f'{prefix}{name}' in state_dict:
                setattr(self, name, state_dict[f'{prefix}{name}'].clone())

    extra_repr = show_settings


def _safe_rsqrt(square: Tensor) -> Tensor:
    """Compute ``1 / sqrt(square)``, and 1 where ``square`` is 0."""
    return torch.where(square > 0, square, 1.0).rsqrt()

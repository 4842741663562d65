"""Knowledge distillation of class probabilities."""
from typing import Literal

from mmengine.registry import MODELS

from ..utils.errors import ConfigError, suggest
from .softmax_divergence import SoftmaxDivergence

_SIDES = ('both', 'teacher')


@MODELS.register_module()
class KLDivergence(SoftmaxDivergence):
    r"""Divergence of softened class probabilities (KD, arXiv 1503.02531).

    :math:`\tau^2 KL(softmax(T / \tau) \| softmax(S / \tau))` over the classes, averaged over
    samples and positions.

    With ``temperature_on='teacher'``: :math:`KL(softmax(T / \tau) \| softmax(S))`, as in
    instance-specific label smoothing (arXiv 2006.05065). The student itself then learns smooth
    predictions. There is no factor :math:`\tau^2`: it makes up for a gradient that is about
    :math:`1 / \tau^2` times as large where tau softens both sides. The paper's cross entropy
    differs from this by the teacher's entropy, which has no gradient; its weight alpha is
    ``loss_weight``.

    Args:
        tau (float): Temperature > 0. Defaults to 1.0.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        temperature_on (str): Whose logits tau divides: ``'both'`` or ``'teacher'``. Defaults to
            ``'both'``.
    """

    axis = 1

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0,
                 temperature_on: Literal['both', 'teacher'] = 'both') -> None:
        super().__init__(tau, loss_weight)
        if temperature_on not in _SIDES:
            raise ConfigError(f'temperature_on={temperature_on!r}: '
                              f'{suggest(temperature_on, _SIDES)}')
        self.temperature_on = temperature_on

    @property
    def student_tau(self) -> float:
        """float: tau, or 1 where it divides the teacher's logits only."""
        return 1.0 if self.temperature_on == 'teacher' else self.tau

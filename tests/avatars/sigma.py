"""sigma as the tests use it."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmakd.avatars import AvatarVariance, Perturbation, Uncertainty


def update(uncertainty: Uncertainty, feature: Tensor, perturbation: Perturbation | None = None,
           avatars: Sequence[Tensor] = ()) -> Callable[[Tensor], Tensor]:
    """Take in a batch, and give what scales its maps."""
    spread = None
    if isinstance(uncertainty, AvatarVariance) and uncertainty.estimator == 'sampled':
        spread = torch.stack([(avatar - feature).square() for avatar in avatars]).mean(0)
    elif perturbation is not None:
        spread = perturbation.variance(feature)
    uncertainty.update(feature, spread)
    return uncertainty.scale

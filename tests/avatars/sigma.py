"""sigma as the tests use it."""
from collections.abc import Callable, Sequence

from torch import Tensor

from mmakd.avatars import Perturbation, Uncertainty


def update(uncertainty: Uncertainty, feature: Tensor, perturbation: Perturbation | None = None,
           avatars: Sequence[Tensor] = ()) -> Callable[[Tensor], Tensor]:
    """Take in a batch, and give what scales its maps."""
    uncertainty.update(feature, perturbation, avatars)
    return uncertainty.scale

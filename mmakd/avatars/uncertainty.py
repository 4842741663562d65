"""Base class of uncertainties."""
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from .perturbation import Perturbation


class Uncertainty(nn.Module):
    """Measures the spread of the Avatars of one map, and scales maps by it.

    For each batch call :meth:`update` first, then :meth:`scale` for the student's map and for each
    target.
    """

    @abstractmethod
    def update(self, feature: Tensor, perturbation: Perturbation | None,
               avatars: Sequence[Tensor] = ()) -> None:
        """Update the statistics with a batch; in eval mode the running ones do not change.

        Args:
            feature (Tensor): Teacher map (N, C, H, W), float32.
            perturbation (Perturbation | None): The perturbation that makes the Avatars.
            avatars (Sequence[Tensor]): Avatars of the feature. Defaults to ().
        """

    @abstractmethod
    def scale(self, feature: Tensor) -> Tensor:
        """Scale a map of the batch of the last :meth:`update`.

        Args:
            feature (Tensor): Map (N, C, H, W), float32.

        Returns:
            Tensor: The map in units of the uncertainty.
        """

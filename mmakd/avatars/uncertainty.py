"""Base class of uncertainties."""
from abc import abstractmethod

from torch import Tensor, nn


class Uncertainty(nn.Module):
    """Measures the spread of the Avatars of one map, and scales maps by it.

    For each batch call :meth:`update` first, then :meth:`scale` for the student's map and for each
    target.
    """

    @abstractmethod
    def update(self, feature: Tensor, spread: Tensor | None) -> None:
        """Update the statistics with a batch; in eval mode the running ones do not change.

        Args:
            feature (Tensor): Teacher map (N, C, H, W), float32.
            spread (Tensor | None): ``E[(A - T)^2]`` of its Avatars, broadcastable to the feature;
                None if it is not known.
        """

    @abstractmethod
    def scale(self, feature: Tensor) -> Tensor:
        """Scale a map of the batch of the last :meth:`update`.

        Args:
            feature (Tensor): Map (N, C, H, W), float32.

        Returns:
            Tensor: The map in units of the uncertainty.
        """

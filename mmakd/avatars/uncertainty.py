"""What every uncertainty is."""
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from .perturbation import Perturbation


class Uncertainty(nn.Module):
    """Measures the spread of the Avatars of one map, and scales maps by it.

    For each batch :meth:`update` comes first; :meth:`scale` then serves the student's map and
    each target of that batch.
    """

    @abstractmethod
    def update(self, feature: Tensor, perturbation: Perturbation | None,
               avatars: Sequence[Tensor] = ()) -> None:
        """Take in a batch; in eval mode nothing is learned from it.

        Args:
            feature (Tensor): Teacher map (N, C, H, W), float32.
            perturbation (Perturbation | None): What makes the Avatars.
            avatars (Sequence[Tensor]): Avatars of the feature. Defaults to ().
        """

    @abstractmethod
    def scale(self, feature: Tensor) -> Tensor:
        """Scale a map of the batch that was last taken in.

        Args:
            feature (Tensor): Map (N, C, H, W), float32.

        Returns:
            Tensor: The map in units of the uncertainty.
        """

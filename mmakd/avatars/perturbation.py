"""Base class of perturbations."""
from abc import abstractmethod

from torch import Generator, Tensor, nn


def show_settings(module: nn.Module) -> str:
    """List the numbers and names that a component was built with, for ``print(model)``."""
    return ', '.join(f'{name}={value!r}' for name, value in vars(module).items()
                     if isinstance(value, (int, float, str)) and name != 'training'
                     and not name.startswith('_'))


def channel_mean(feature: Tensor) -> Tensor:
    """Average each channel of a feature, to a shape that broadcasts.

    Args:
        feature (Tensor): Maps (N, C, H, W) are averaged over the positions of each image; vectors
            (N, C), and maps of one position, over the batch.
    """
    dims = (2, 3) if feature.shape[2:].numel() > 1 else 0
    return feature.mean(dims, keepdim=True)


class Perturbation(nn.Module):
    """Makes Avatars of a feature map (AKD, arXiv 2305.02722).

    A perturbation is the same in train and eval mode, and unbiased: the mean of its Avatars is the
    feature. Different channels are perturbed independently.

    Attributes:
        strength (float): Factor on the nominal rate or deviation, scheduled by
            :class:`mmakd.hooks.PerturbationHook`. Defaults to 1.0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0

    @abstractmethod
    def forward(self, feature: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw one Avatar.

        Args:
            feature (Tensor): Teacher map (N, C, H, W) or vectors (N, C).
            generator (torch.Generator, optional): Source of randomness, on the feature's device.
                Defaults to None, torch's global generator.

        Returns:
            Tensor: The Avatar, of the feature's shape and dtype.
        """

    def variance(self, feature: Tensor) -> Tensor | None:
        """Compute ``E[(A - T)^2]`` in closed form.

        Args:
            feature (Tensor): Teacher map (N, C, H, W) or vectors (N, C).

        Returns:
            Tensor | None: Elementwise expectation, broadcastable to the feature; None without a
            closed form.
        """
        return None

    extra_repr = show_settings

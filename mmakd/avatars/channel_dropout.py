"""Dropout of whole channels."""
from mmengine.registry import MODELS
from torch import Generator, Tensor

from .dropout import DropoutPerturbation


@MODELS.register_module()
class ChannelDropoutPerturbation(DropoutPerturbation):
    """Drops whole channels of an image, as in spatial dropout (arXiv 1411.4280).

    Mean and variance of an element are those of :class:`DropoutPerturbation`; the elements of a
    channel fall together.

    Args:
        drop_rate (float): Probability in [0, 1) that a channel is dropped. Defaults to 0.1.

    Raises:
        ConfigError: If ``drop_rate`` is outside [0, 1).
    """

    def keep_mask(self, feature: Tensor, generator: Generator | None) -> Tensor:
        """Draw one value a channel; see :meth:`DropoutPerturbation.keep_mask`."""
        shape = feature.shape[:2] + (1, ) * (feature.dim() - 2)
        return feature.new_empty(shape).bernoulli_(1 - self.rate, generator=generator)

"""Dropout of square blocks."""
from typing import Literal

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Generator, Tensor

from ..utils.errors import ConfigProblems
from .dropout import DropoutPerturbation


@MODELS.register_module()
class DropBlockPerturbation(DropoutPerturbation):
    """Drops square blocks, drawn for each channel (DropBlock, arXiv 1810.12890).

    The published rule approximates its rate and rescales by the number of kept elements. Here
    blocks may start outside the map, so that ``block_size^2`` seeds can drop each element, also at
    the border. With the seed probability ``1 - (1 - p)^(1 / block_size^2)`` each element is
    dropped with probability exactly p, and mean and variance are those of
    :class:`DropoutPerturbation`.

    Args:
        drop_rate (float): Probability p in [0, 1) that an element is dropped. Defaults to 0.1.
        block_size (int): Side of a block, in positions of the map. Defaults to 7.
        fill (str): As of :class:`DropoutPerturbation`. Defaults to ``'mean'``.
    """

    def __init__(self, drop_rate: float = 0.1, block_size: int = 7,
                 fill: Literal['mean', 'zero'] = 'mean') -> None:
        problems = ConfigProblems()
        with problems.under(''):
            super().__init__(drop_rate, fill)
        if not isinstance(block_size, int) or block_size < 1:
            problems.add(f'block_size={block_size!r}: must be an integer >= 1, e.g. 7')
        problems.raise_if_any()
        self.block_size = block_size

    def keep_mask(self, feature: Tensor, generator: Generator | None) -> Tensor:
        """Draw seeds and grow them to blocks; see :meth:`DropoutPerturbation.keep_mask`."""
        size = self.block_size
        height, width = feature.shape[2:] if feature.dim() == 4 else (1, 1)
        seed_rate = 1 - (1 - self.rate)**(1 / size**2)
        seeds = feature.new_empty(*feature.shape[:2], height + size - 1, width + size - 1)
        seeds.bernoulli_(seed_rate, generator=generator)
        # A square maximum is a maximum over rows and then over columns: 2 size steps, not size^2.
        dropped = F.max_pool2d(F.max_pool2d(seeds, (size, 1), stride=1), (1, size), stride=1)
        return (1 - dropped).view_as(feature)

"""Losses with a random stream of their own."""
from mmengine.dist import get_rank

from ..utils.rng import mix_seed


class SeededDraws:
    """Seeds the draws of a loss by (seed, rank, number of the call).

    ``PerturbationHook`` starts a new stream in each iteration, so that a resumed training draws
    the same.
    """

    _seed = 0
    _num_calls = 0

    def reseed(self, seed: int) -> None:
        """Start a new stream.

        Args:
            seed (int): Seed >= 0; combined with the process's rank.
        """
        self._seed = seed
        self._num_calls = 0

    def next_seed(self) -> int:
        """Return the seed of the next draws."""
        seed = mix_seed(self._seed, get_rank(), self._num_calls)
        self._num_calls += 1
        return seed

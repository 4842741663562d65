"""Save, seed and derive random streams."""
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import get_rank


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the global streams of Python, NumPy and torch after the block.

    Random values inside the block come from the same streams, so they are as reproducible as the
    rest of the model.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def seed_rng(seed: int, devices: bool = True) -> None:
    """Seed the global streams of Python, NumPy and torch by a number in [0, 2^63).

    ``devices`` has accelerators seeded too, which a data loading worker must not do.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    (torch if devices else torch.default_generator).manual_seed(seed)


def mix_seed(*parts: int | str) -> int:
    """Mix numbers and names, such as rank, iteration and task, into one seed in [0, 2^63)."""
    # Two words each, and their number first, so that no list is mistaken for another.
    words = [len(parts)]
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        words += [number & 0xffffffff, number >> 32]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


class SeededDraws:
    """A component with a random stream of its own, which ``PerturbationHook`` reseeds."""

    def reseed(self, seed: int) -> None:
        """Start a new stream.

        Args:
            seed (int): Seed >= 0; combined with the process's rank.
        """
        self._seed = seed
        self._num_calls = 0

    def next_seed(self) -> int:
        """Return the seed of the next call."""
        seed = mix_seed(self._seed, get_rank(), self._num_calls)
        self._num_calls += 1
        return seed

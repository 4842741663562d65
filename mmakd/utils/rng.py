"""Random streams of our own, apart from the global ones."""
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Leave the global streams of Python, NumPy and torch after the block as they were before.

    What is built inside takes its first values from the same streams, so it is as reproducible
    as the rest of the model.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def seed_rng(seed: int, devices: bool = True) -> None:
    """Start the global streams of Python, NumPy and torch anew.

    Args:
        seed (int): A seed in [0, 2^63).
        devices (bool): Whether those of accelerators count; a worker that loads data must not
            touch them. Defaults to True.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if devices:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def mix_seed(*parts: int | str) -> int:
    """Mix numbers and names into one seed.

    Args:
        *parts (int | str): What the seed depends on, e.g. seed, rank, iteration, task name.

    Returns:
        int: A seed in [0, 2^63) in which every part makes a difference.
    """
    # Two words each, and their number first, so that no list is mistaken for another.
    words = [len(parts)]
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        words += [number & 0xffffffff, number >> 32]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))

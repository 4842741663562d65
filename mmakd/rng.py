"""Random streams of our own, apart from the global ones."""
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def preserve_rng(cuda: bool = True) -> Iterator[None]:
    """Leave the global streams of Python, NumPy and torch after the block as they were before.

    What is built inside takes its first values from the same streams, so it is as reproducible
    as the rest of the model.

    Args:
        cuda (bool): Whether the streams of CUDA devices count; a worker that loads data must not
            touch them. Defaults to True.
    """
    state = rng_state(cuda)
    try:
        yield
    finally:
        set_rng_state(state)


def rng_state(cuda: bool = True) -> dict[str, Any]:
    """Take down where the global streams are.

    Args:
        cuda (bool): Whether those of CUDA devices count. Defaults to True.

    Returns:
        dict: Plain numbers and tensors, which ``torch.load(weights_only=True)`` reads.
    """
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=(name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else [])


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global streams back.

    Args:
        state (dict): What :func:`rng_state` gave.
    """
    random.setstate(state['python'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if state['cuda']:
        torch.cuda.set_rng_state_all(state['cuda'])


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

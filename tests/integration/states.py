"""Comparing what checkpoints hold."""
import torch


def same(first, second, path=''):
    """Compare nested states bit for bit; give the paths that differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        assert set(first) == set(second), path
        return [found for key in first for found in same(first[key], second[key], f'{path}.{key}')]
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        return [found for i, pair in enumerate(zip(first, second))
                for found in same(*pair, f'{path}.{i}')]
    return [] if first == second else [path]

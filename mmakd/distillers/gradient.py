"""Finding tasks that would teach the student nothing."""
from collections.abc import Mapping

import torch

from ..utils.errors import ConfigProblems
from .tap_pair import TapPair
from .taps import FeatureTaps


def check_gradient(pairs: Mapping[str, TapPair], taps: FeatureTaps) -> None:
    """Check that each task's gradient reaches the student, which no loss would show.

    Args:
        pairs (Mapping[str, TapPair]): Where each task taps the networks.
        taps (FeatureTaps): What the student gave.

    Raises:
        ConfigError: If all maps of a task carry no gradient where gradients are computed.
    """
    if not torch.is_grad_enabled():
        return
    problems = ConfigProblems()
    for name, pair in pairs.items():
        maps = taps.features[pair.student]
        if maps and not any(feature.requires_grad for feature in maps):
            problems.add(
                f'model.distill.{name}.tap={pair.student!r}: what the student gives there carries '
                'no gradient: the part is frozen, or lies inside a block that is checkpointed; '
                'tap the end of the block or further on, or set with_cp=False')
    problems.raise_if_any()

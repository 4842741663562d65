"""Predictions of a teacher whose logits are replaced by Avatars."""
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from mmakd.avatars import Perturbation
from mmakd.distillers.tap_pair import TapPair
from mmakd.distillers.taps import FeatureTaps
from mmakd.distillers.upstream_avatars import UpstreamAvatars, upstream_avatars
from mmakd.losses.uncertainty_feature_loss import TapAvatars
from mmakd.utils.errors import ConfigError


class Variant(NamedTuple):
    """What predicts.

    Attributes:
        perturbed (str, optional): ``'tap'`` or ``'upstream'``. Defaults to None, the teacher.
        rate (float, optional): Drop rate or deviation. Defaults to None, the teacher.
        num_avatars (int): How many Avatars are averaged. Defaults to 0, the teacher.
    """

    perturbed: str | None = None
    rate: float | None = None
    num_avatars: int = 0


@torch.no_grad()
def predict(network: Any, pair: TapPair, perturbations: Mapping[float, Perturbation],
            num_avatars: int, batch: Any, seed: int) -> Iterator[tuple[Variant, list]]:
    """Predict a batch by the teacher, by one Avatar, and by the mean of several.

    Backbone and neck run once. All rates and places start from the same random numbers, and the
    one Avatar is the first of the several.

    Args:
        network (BaseModel): The teacher.
        pair (TapPair): The tap, and the module whose input is perturbed.
        perturbations (Mapping[float, Perturbation]): By rate.
        num_avatars (int): Number of Avatars, at least 2.
        batch (Any): A batch as a dataloader gives it.
        seed (int): Seed of the Avatars.

    Yields:
        tuple[Variant, list]: What predicts, and its data samples.

    Raises:
        ConfigError: If the input of ``perturb_at`` cannot be perturbed.
    """
    features: list[Any] = []
    extract = network.extract_feat

    def record(*args: Any, **kwargs: Any) -> Any:
        extracted = extract(*args, **kwargs)
        features.append(deepcopy(extracted))  # a head may work in place
        return extracted

    assert pair.perturb_at is not None
    taps = FeatureTaps(network, [pair.teacher], inputs_of=[pair.perturb_at])
    with _replaced(network, 'extract_feat', record), taps:
        samples = network.val_step(batch)
    yield Variant(), samples
    upstream = upstream_avatars(network, pair, taps)
    assert upstream is not None
    _check(upstream, taps)
    maps = taps.features[pair.teacher]
    generator = Generator(maps[0].device)
    sources: dict[str, Any] = dict(tap=TapAvatars(maps), upstream=upstream)
    for perturbed, source in sources.items():
        for rate, perturbation in perturbations.items():
            generator.manual_seed(seed)
            first = source.draw(perturbation, generator)
            if len(first) != len(maps):
                raise ConfigError(f'perturb_at={pair.perturb_at!r}: the tap is also called '
                                  'outside that module; give another one')
            mean = [avatar.clone() for avatar in first]
            for number in range(2, num_avatars + 1):
                for average, avatar in zip(mean, source.draw(perturbation, generator)):
                    # Equal Avatars keep their mean bit for bit, a sum would not.
                    average += (avatar - average) / number
            for number, avatars in ((1, first), (num_avatars, mean)):
                repeated = iter(features)
                with _replaced(network, 'extract_feat',
                               lambda *args, rest=repeated, **kwargs: deepcopy(next(rest))), \
                        _replaced_outputs(network.get_submodule(pair.teacher), avatars):
                    samples = network.val_step(batch)
                yield Variant(perturbed, rate, number), samples


def _check(upstream: UpstreamAvatars, taps: FeatureTaps) -> None:
    key = f'perturb_at={upstream.perturb_at!r}'
    if not taps.features[upstream.tap] or not upstream.has_features():
        raise ConfigError(f'{key}: the input of that module is not maps (N, C, H, W), or the '
                          'teacher does not call it when it predicts; give another one')
    if taps.overwritten():
        raise ConfigError(f'{key}: a layer works in place on its input, or on the output of the '
                          'tap; give that layer, or one further on')


@contextmanager
def _replaced(owner: Any, method: str, function: Callable) -> Iterator[None]:
    setattr(owner, method, function)
    try:
        yield
    finally:
        delattr(owner, method)


@contextmanager
def _replaced_outputs(module: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    """Replace the outputs of the module's calls, in their order."""
    rest = iter(outputs)
    handle = module.register_forward_hook(lambda module, args, output: next(rest))
    try:
        yield
    finally:
        handle.remove()

"""The AKD loss: a criterion over student and Avatars, weighted by sigma."""
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from mmengine.dist import get_rank
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..avatars import AvatarVariance, Perturbation, Uncertainty
from ..avatars.perturbation import show_settings
from ..utils.build import build
from ..utils.errors import ConfigError, ConfigProblems, check_numbers
from ..utils.rng import mix_seed
from .features import build_loss, check_same_shape, float32, run_loss, zero_loss


@MODELS.register_module()
class UncertaintyFeatureLoss(nn.Module):
    r"""Avatar Knowledge Distillation (AKD, arXiv 2305.02722).

    :math:`\frac{1}{K} \sum_k criterion(S / \sigma, A_k / \sigma)`, where the K Avatars
    :math:`A_k = P(T; e_k)` are drawn anew in each call, and sigma is their spread.

    Works as a task's loss of :class:`mmakd.distillers.AvatarDistiller`, in an MMRazor config or
    alone in any training loop. Avatars have their own random stream.

    Ablation: sigma only, ``perturb=False``; Avatars only, ``uncertainty=None``; neither,
    ``perturb=False, uncertainty=None``. The default is both.

    Args:
        criterion (dict): Config of the base criterion, ``forward(preds_S, preds_T) -> scalar``.
            For K > 1 its ``forward_avatars`` is used if it has one: the mean over several targets
            with the memory of one.
        perturbation (dict, optional): Config of the perturbation that makes the Avatars. Defaults
            to ``dict(type='DropoutPerturbation', drop_rate=0.1)``.
        uncertainty (dict, optional): Config of the uncertainty that scales both maps. Defaults to
            ``dict(type='AvatarVariance')``, the paper.
        num_avatars (int): Number K >= 1 of Avatars. Defaults to 1.
        perturb (bool): Whether the targets are the Avatars; False compares with the teacher's own
            map. Defaults to True.
        loss_weight (float): Factor on the loss. Defaults to 1.0.
        channels (int, optional): Channels of the maps, for components that need it; set by the
            distiller. Defaults to None.
        level (int): Index of the task's level, for a criterion that needs it; set by the
            distiller. Defaults to 0.
    """

    def __init__(self,
                 criterion: dict,
                 perturbation: dict | None = dict(type='DropoutPerturbation', drop_rate=0.1),  # noqa: B006
                 uncertainty: dict | None = dict(type='AvatarVariance'),  # noqa: B006
                 num_avatars: int = 1,
                 perturb: bool = True,
                 loss_weight: float = 1.0,
                 channels: int | None = None,
                 level: int = 0) -> None:
        super().__init__()
        problems = ConfigProblems()
        with problems.under('criterion'):
            self.criterion: Any = build_loss(criterion, channels, level)
            self._knows_mean = _has_mean_of_its_forward(self.criterion)
        self.perturbation: Perturbation | None = None
        self.uncertainty: nn.ModuleList | None = None
        if perturbation is not None:
            with problems.under('perturbation'):
                self.perturbation = build(perturbation)
                _check_kind(self.perturbation, perturbation, Perturbation, 'DropoutPerturbation')
        if uncertainty is not None:
            with problems.under('uncertainty'):
                # One for each level, added when a list of maps first shows how many there are.
                first = build(uncertainty, offer=dict(channels=channels))
                _check_kind(first, uncertainty, Uncertainty, 'AvatarVariance')
                self.uncertainty = nn.ModuleList([first])
                if perturbation is None and isinstance(first, AvatarVariance):
                    problems.add('perturbation=None: AvatarVariance measures the spread of '
                                 'Avatars; give a perturbation (perturb=False for sigma only) or '
                                 'set uncertainty=None')
        if not isinstance(num_avatars, int) or num_avatars < 1:
            problems.add(f'num_avatars={num_avatars!r}: must be an integer >= 1 (perturb=False '
                         'compares with the teacher itself)')
        with problems.under(''):
            check_numbers(not_negative=dict(loss_weight=loss_weight))
        problems.raise_if_any()
        self._uncertainty_cfg = uncertainty
        self.num_avatars = num_avatars
        self.perturb = perturb and perturbation is not None
        self.loss_weight = loss_weight
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        """Start a new stream of Avatars.

        Args:
            seed (int): Seed >= 0; combined with the process's rank.
        """
        self._seed = seed
        self._num_calls = 0

    @property
    def sigma(self) -> list[Tensor]:
        """list[Tensor]: sigma (1, C, 1, 1) of each level; empty without sigma."""
        return [level.sigma for level in self.uncertainty or ()
                if isinstance(level, AvatarVariance)]

    @float32
    def forward(self, preds_S: Tensor | Sequence[Tensor],
                preds_T: Tensor | Sequence[Tensor],
                data_samples: list | None = None) -> Tensor:
        """Compute the loss, summed over levels.

        Args:
            preds_S (Tensor | Sequence[Tensor]): Student map (N, C, H, W), vectors (N, C), or a
                list of them, one per level.
            preds_T (Tensor | Sequence[Tensor]): The teacher's, of the same shapes.
            data_samples (list, optional): Those of the batch, for a criterion that needs the
                ground truth. Defaults to None.

        Returns:
            Tensor: Scalar, float32.

        Raises:
            ValueError: If the numbers of levels or the shapes differ.
        """
        maps_S = [preds_S] if isinstance(preds_S, Tensor) else preds_S
        maps_T = [preds_T] if isinstance(preds_T, Tensor) else preds_T
        if len(maps_S) != len(maps_T):
            raise ValueError(f'{len(maps_S)} student maps, but {len(maps_T)} teacher maps')
        for map_S, map_T in zip(maps_S, maps_T):
            check_same_shape(map_S, map_T)
        self._add_levels(len(maps_T))
        generator = torch.Generator(maps_T[0].device)
        generator.manual_seed(mix_seed(self._seed, get_rank(), self._num_calls))
        self._num_calls += 1
        losses = [
            self._level_loss(level, _as_map(map_S), _as_map(map_T.detach()), generator,
                             data_samples)
            for level, (map_S, map_T) in enumerate(zip(maps_S, maps_T))
        ]
        return self.loss_weight * torch.stack(losses).sum()

    def _level_loss(self, level: int, map_S: Tensor, map_T: Tensor,
                    generator: torch.Generator, data_samples: list | None) -> Tensor:
        avatars: Iterable[Tensor] = self._draw(map_T, generator)
        targets = avatars if self.perturb else [map_T]
        if self.uncertainty is not None:
            uncertainty = cast(Uncertainty, self.uncertainty[level])
            measured: Sequence[Tensor] = ()
            if isinstance(uncertainty, AvatarVariance) and uncertainty.estimator == 'sampled':
                measured = list(avatars)
                targets = measured if self.perturb else targets
            uncertainty.update(map_T, self.perturbation, measured)
            map_S, targets = uncertainty.scale(map_S), map(uncertainty.scale, targets)
        if not map_S.numel():
            return zero_loss(self.criterion, map_S)
        if not self.perturb or self.num_avatars == 1:
            return run_loss(self.criterion, map_S, next(iter(targets)), data_samples)
        if self._knows_mean:
            return self.criterion.forward_avatars(map_S, targets)
        # Recomputed in the backward pass, so that memory does not grow with K student maps.
        losses = [checkpoint(run_loss, self.criterion, map_S, target, data_samples,
                             use_reentrant=False) for target in targets]
        return torch.stack(losses).mean()

    def _draw(self, map_T: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Make the Avatars lazily, one by one."""
        if self.perturbation is not None:
            for _ in range(self.num_avatars):
                with torch.no_grad():
                    avatar = self.perturbation(map_T, generator)
                yield avatar

    def _add_levels(self, number: int) -> None:
        if self.uncertainty is not None:
            while len(self.uncertainty) < number:
                level = build(self._uncertainty_cfg)
                self.uncertainty.append(level.train(self.training))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        levels = {key[len(f'{prefix}uncertainty.'):].split('.')[0]
                  for key in state_dict if key.startswith(f'{prefix}uncertainty.')}
        self._add_levels(len(levels))
        super()._load_from_state_dict(state_dict, prefix, *args)

    extra_repr = show_settings


def _as_map(feature: Tensor) -> Tensor:
    """View vectors (N, C) as maps of one position."""
    return feature[..., None, None] if feature.dim() == 2 else feature


def _check_kind(component: Any, cfg: dict, kind: type, example: str) -> None:
    if not isinstance(component, kind):
        raise ConfigError(f'type={cfg["type"]!r}: is no {kind.__name__.lower()}; give e.g. '
                          f'{example}')


def _has_mean_of_its_forward(criterion: nn.Module) -> bool:
    """Tell whether ``forward_avatars`` is defined for the loss that the class computes."""

    def depth(method: str) -> int:
        return next((depth for depth, base in enumerate(type(criterion).__mro__)
                     if method in vars(base)), len(type(criterion).__mro__))

    return depth('forward_avatars') <= min(depth('forward'), depth('compare'))

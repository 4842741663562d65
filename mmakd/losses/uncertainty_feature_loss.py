"""The AKD loss: a criterion over student and Avatars, weighted by sigma."""
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..avatars import AvatarVariance, Perturbation, Uncertainty
from ..avatars.perturbation import show_settings
from ..utils.build import build
from ..utils.errors import ConfigError, ConfigProblems, check_numbers, suggest
from .avatar_comparison import AvatarComparison
from .features import build_loss, check_same_shape, float32
from .seeded_draws import SeededDraws

_TARGETS = ('each', 'mean')


@MODELS.register_module()
class UncertaintyFeatureLoss(nn.Module, SeededDraws):
    r"""Avatar Knowledge Distillation (AKD, arXiv 2305.02722).

    :math:`\frac{1}{K} \sum_k criterion(S / \sigma, A_k / \sigma)`, where the K Avatars
    :math:`A_k = P(T; e_k)` are drawn anew in each call, and sigma is their spread.

    Works as a task's loss of :class:`mmakd.distillers.AvatarDistiller`, in an MMRazor config or
    alone in any training loop. Avatars have their own random stream.

    Ablation: sigma only, ``perturb=False``; Avatars only, ``uncertainty=None``; neither,
    ``perturb=False, uncertainty=None``. The default is both.

    Args:
        criterion (dict): Config of the base criterion, ``forward(preds_S, preds_T) -> scalar``.
        perturbation (dict, optional): Config of the perturbation that makes the Avatars. Defaults
            to ``dict(type='DropoutPerturbation', drop_rate=0.1)``.
        uncertainty (dict, optional): Config of the uncertainty that scales both maps. Defaults to
            ``dict(type='AvatarVariance')``, the paper.
        num_avatars (int): Number K >= 1 of Avatars. Defaults to 1.
        perturb (bool): Whether the targets are the Avatars; False compares with the teacher's own
            map. Defaults to True.
        target (str): ``'each'``: the mean of the losses over Avatars; ``'mean'``: the loss of
            their mean, as in distilling an ensemble. Defaults to ``'each'``.
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
                 target: Literal['each', 'mean'] = 'each',
                 loss_weight: float = 1.0,
                 channels: int | None = None,
                 level: int = 0) -> None:
        super().__init__()
        problems = ConfigProblems()
        with problems.under('criterion'):
            self.criterion: Any = build_loss(criterion, channels, level)
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
        if target not in _TARGETS:
            problems.add(f'target={target!r}: {suggest(target, _TARGETS)}')
        with problems.under(''):
            check_numbers(not_negative=dict(loss_weight=loss_weight))
        problems.raise_if_any()
        self._uncertainty_cfg = uncertainty
        self.num_avatars = num_avatars
        self.perturb = perturb and perturbation is not None
        self.target = target
        self.loss_weight = loss_weight

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
        self._add_levels(len(maps_T))
        levels = [self.compare(map_S, map_T, data_samples, level)
                  for level, (map_S, map_T) in enumerate(zip(maps_S, maps_T))]
        return self.run(levels, TapAvatars([level.map_T for level in levels]))

    def compare(self, preds_S: Tensor, preds_T: Tensor, data_samples: list | None = None,
                level: int = 0) -> AvatarComparison:
        """Prepare the comparison of one student map with the Avatars of one teacher map.

        Args:
            preds_S (Tensor): Student map (N, C, H, W) or vectors (N, C).
            preds_T (Tensor): The teacher's, of the same shape.
            data_samples (list, optional): As of :meth:`forward`.
            level (int): Index of the level, which has a sigma of its own. Defaults to 0.
        """
        check_same_shape(preds_S, preds_T)
        uncertainty = None if self.uncertainty is None else self.uncertainty[level]
        return AvatarComparison(self.criterion, cast('Uncertainty | None', uncertainty), preds_S,
                                preds_T.detach(), self.num_avatars if self.perturb else 1,
                                self.target, data_samples)

    def run(self, comparisons: Sequence[AvatarComparison], avatars: Any) -> Tensor:
        """Compare with Avatars of all levels, which are drawn together, one after the other.

        Args:
            comparisons (Sequence[AvatarComparison]): Those of the levels.
            avatars (TapAvatars | mmakd.distillers.upstream_avatars.UpstreamAvatars): Source of the
                Avatars.

        Returns:
            Tensor: Scalar, float32; the sum over levels, with ``loss_weight``.
        """
        device = comparisons[0].map_T.device
        generator = torch.Generator(device)
        seed = self.next_seed()

        def draw() -> Iterator[list[Tensor]]:
            generator.manual_seed(seed)
            return (avatars.draw(self.perturbation, generator) for _ in range(self.num_avatars))

        estimator = getattr(comparisons[0].uncertainty, 'estimator', None)
        # The mean target is scaled last, any other one when it is drawn. So sampling sigma takes a
        # pass of its own there, which draws the same Avatars: memory does not grow with K.
        in_one_pass = estimator == 'sampled' and (self.target == 'mean' or self.num_avatars == 1)
        with torch.autocast(device.type, enabled=False):
            if estimator == 'sampled':
                for drawn in draw():
                    for comparison, avatar in zip(comparisons, drawn):
                        comparison.measure(avatar, self.num_avatars)
                        if in_one_pass and self.perturb:
                            comparison.add(avatar)
            elif estimator is not None:
                variances = avatars.variances(self.perturbation) or ()
                for comparison, variance in zip(comparisons, variances):
                    comparison.spread = variance
            for comparison in comparisons:
                comparison.update_sigma()
            if not self.perturb:
                for comparison in comparisons:
                    comparison.add(comparison.map_T)
            elif not in_one_pass:
                for drawn in draw():
                    for comparison, avatar in zip(comparisons, drawn):
                        comparison.add(avatar)
            return self.loss_weight * torch.stack([part.loss() for part in comparisons]).sum()

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


def _check_kind(component: Any, cfg: dict, kind: type, example: str) -> None:
    if not isinstance(component, kind):
        raise ConfigError(f'type={cfg["type"]!r}: is no {kind.__name__.lower()}; give e.g. '
                          f'{example}')


class TapAvatars:
    """Avatars of maps, each perturbed where it is tapped.

    Args:
        maps (Sequence[Tensor]): Teacher maps (N, C, H, W) of all levels.
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps = maps

    @torch.no_grad()
    def draw(self, perturbation: Perturbation, generator: torch.Generator) -> list[Tensor]:
        """Draw one Avatar of each map."""
        return [perturbation(feature, generator) for feature in self.maps]

    @torch.no_grad()
    def variances(self, perturbation: Perturbation) -> list[Tensor | None]:
        """Compute ``E[(A - T)^2]`` of each map, where it has a closed form."""
        return [perturbation.variance(feature) for feature in self.maps]

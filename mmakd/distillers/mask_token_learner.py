"""Learn the tokens that MasKDLoss needs."""
from __future__ import annotations

import itertools
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..losses.mask_tokens import MaskTokens, dice_overlap
from ..utils.dist import same_on_all_ranks
from ..utils.errors import ConfigError, ConfigProblems, check_numbers
from ..utils.rng import preserve_rng
from .assembly import build_network, find_teacher_ckpt
from .dry_run import dry_run_samples, on_small_image
from .taps import FeatureTaps, check_tap, forward_to_taps
from .teacher import Teacher


@MODELS.register_module()
class MaskTokenLearner(BaseModel):
    """Learns which positions of its maps a teacher needs (first stage of MasKD).

    Source: MasKD (arXiv 2205.14589, Section 3.2). At the tap each map is masked by its tokens,
    which learn from the frozen teacher's own loss on the masked maps; a Dice term keeps the masks
    of a map apart. In mode ``'predict'`` the teacher also runs on the masked maps, so validation
    shows how much the masks keep.

    The checkpoint holds only the tokens; :class:`mmakd.losses.MasKDLoss` reads it.

    Args:
        teacher (str | dict): The teacher, as in :class:`mmakd.distillers.AvatarDistiller`.
        teacher_ckpt (str, optional): Its weights, likewise. Defaults to ``'auto'``.
        tap (str): Dotted path of the module whose maps are masked. The teacher must use all of
            them, and the task with the ``MasKDLoss`` must tap the same module. Defaults to
            ``'neck'``.
        num_tokens (int): Tokens per map. Defaults to 6.
        weight_masks (bool): Whether to learn a weighting of the masks for each image. Defaults to
            True.
        dice_weight (float): Weight of the Dice term, >= 0. Defaults to 1.0.

    Attributes:
        teacher (nn.Module): The frozen teacher network.
        teachers (dict[str, Teacher]): The teacher with its checkpoint, as ``'teacher'``.
    """

    def __init__(self, teacher: str | dict, teacher_ckpt: str | None = 'auto', tap: str = 'neck',
                 num_tokens: int = 6, weight_masks: bool = True, dice_weight: float = 1.0) -> None:
        problems = ConfigProblems()
        if type(num_tokens) is not int or num_tokens < 1:
            problems.add(f'model.num_tokens={num_tokens!r}: must be an integer >= 1, e.g. 6')
        with problems.under('model'):
            check_numbers(not_negative=dict(dice_weight=dice_weight))
        with problems.under('model.teacher'), preserve_rng():
            network = build_network(teacher)
            with problems.under('model.teacher_ckpt'):
                teacher_ckpt = find_teacher_ckpt(teacher, teacher_ckpt)
            with problems.under('model'):
                channels = _channels(network, tap)
        problems.raise_if_any()
        super().__init__(data_preprocessor=network.data_preprocessor)
        self.teachers = dict(
            teacher=Teacher(network, network.data_preprocessor, teacher_ckpt))
        self.tap = tap
        self.dice_weight = dice_weight
        # The name is that of the authors' code, whose files MasKDLoss can read.
        self.mask_modules = nn.ModuleList(MaskTokens(num_tokens, number, weight_masks)
                                          for number in channels)

    @property
    def teacher(self) -> BaseModel:
        """BaseModel: The frozen teacher network."""
        return self.teachers['teacher'].network

    @same_on_all_ranks()
    def init_weights(self) -> None:
        """Load the teacher; its tokens keep the values that they were built with."""
        with preserve_rng():
            self.teachers['teacher'].load()
        self.is_init = True

    def _apply(self, *args: Any, **kwargs: Any) -> MaskTokenLearner:
        super()._apply(*args, **kwargs)
        self.teachers['teacher'].follow(*args, **kwargs)
        return self

    def forward(self, inputs: Tensor, data_samples: list | None = None,
                mode: str = 'tensor') -> Any:
        """Run the teacher on masked maps.

        Args:
            inputs (Tensor): Images (N, 3, H, W) as the teacher's preprocessor gave them.
            data_samples (list, optional): Their data samples. Defaults to None.
            mode (str): ``'loss'``, ``'predict'`` or ``'tensor'``. Defaults to ``'tensor'``.

        Returns:
            Any: What the teacher returns; in mode ``'loss'`` its losses and ``loss_token_dice``.
        """
        if mode == 'predict' and not self.is_init:
            # Testing loads the tokens, but not the teacher.
            self.init_weights()
        masker = _Masker(self.mask_modules)
        handle = self.teacher.get_submodule(self.tap).register_forward_hook(
            lambda module, args, output: masker.mask(output))
        if mode == 'loss':
            _set_training(self.teacher)
        try:
            outputs = self.teacher(inputs, data_samples, mode=mode)
        finally:
            handle.remove()
            self.teacher.eval()
        if mode == 'loss':
            outputs['loss_token_dice'] = self.dice_weight * torch.stack(masker.overlaps).sum()
        return outputs


def _set_training(network: nn.Module) -> None:
    """Set a network to compute its loss, but without dropout and with fixed statistics.

    Some heads, such as those of RepPoints and FCOS, have other outputs for loss than for
    prediction, so they must be in train mode. Only single layers, and torch's attention, draw
    random numbers or keep statistics.
    """
    for module in network.modules():
        module.training = (next(module.children(), None) is not None
                           and not isinstance(module, nn.MultiheadAttention))


class _Masker:
    """Masks the maps that a module returns, and notes how alike the masks of each are."""

    def __init__(self, mask_modules: nn.ModuleList) -> None:
        # Round and round: a network may run several times, as on the windows of an image.
        self.levels = itertools.cycle(mask_modules)
        self.overlaps: list[Tensor] = []

    def mask(self, output: Any) -> Any:
        if isinstance(output, dict):
            return {key: self.mask(part) for key, part in output.items()}
        if isinstance(output, (list, tuple)):
            return type(output)(self.mask(part) for part in output)
        if not isinstance(output, Tensor):
            return output
        with torch.autocast(output.device.type, enabled=False):
            masked, masks = next(self.levels)(output.float())
            self.overlaps.append(dice_overlap(masks))
        return masked.to(output.dtype)


@torch.no_grad()
def _channels(network: BaseModel, tap: str) -> list[int]:
    """Find the channels of the maps at a tap by a run on a black image."""
    check_tap(network, 'tap', tap, 'teacher')

    def run(size: tuple[int, int]) -> list[Tensor]:
        with FeatureTaps(network, [tap]) as taps:
            forward_to_taps(network, [tap], torch.zeros(1, 3, *size),
                            dry_run_samples(network, 1, size))
        return taps.features[tap]

    maps = on_small_image(run, network)
    if not maps or any(feature.dim() != 4 for feature in maps):
        raise ConfigError(f'tap={tap!r}: the teacher gives no maps (N, C, H, W) there; tap the '
                          'neck, the backbone, or a convolution of a head that is called')
    return [feature.size(1) for feature in maps]

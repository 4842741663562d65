"""The maps of one distillation task as heat maps."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from ..distillers import AvatarDistiller
from ..distillers.distill_task import DistillTask
from ..losses import UncertaintyFeatureLoss
from ..losses.uncertainty_feature_loss import TapAvatars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_SAMPLES = 32


class AvatarMaps(NamedTuple):
    """The maps that an ``UncertaintyFeatureLoss`` compares on one image, at one level.

    Args:
        teacher (Tensor): The teacher's map T (C, H, W).
        avatars (list[Tensor]): Two Avatars A (C, H, W).
        student (Tensor): The student's map S (C, H, W) after its adapter.
        deviation (Tensor): Square root of ``E[(A - T)^2]``, (C, H, W).
        sigma (Tensor, optional): The running sigma (C,), over all training images; None without
            ``AvatarVariance``.
    """

    teacher: Tensor
    avatars: list[Tensor]
    student: Tensor
    deviation: Tensor
    sigma: Tensor | None

    def most_varied_channel(self) -> int:
        """Find the channel that varies most over the positions of the teacher's map."""
        return int(self.teacher.var(dim=(1, 2)).argmax())


@torch.no_grad()
def read_avatar_maps(model: AvatarDistiller, data: dict, task: str, level: int = 0,
                     seed: int = 0) -> AvatarMaps:
    """Run student and teacher on one image and read the maps of a task.

    The deviation is the closed form or, without one, that of 32 Avatars.

    Args:
        model (AvatarDistiller): The trained model, in eval mode.
        data (dict): A batch of one image, as a dataloader gives it.
        task (str): Name of a task whose loss makes Avatars.
        level (int): Index of the task's map. Defaults to 0.
        seed (int): Seed of the Avatars. Defaults to 0.

    Raises:
        TypeError: If the task's loss makes no Avatars.
    """
    data = model.data_preprocessor(data, training=False)
    _, maps = model.run_with_teacher([task], data['inputs'], data['data_samples'], mode='tensor')
    distill_task = cast(DistillTask, model.distiller[task])
    index = level if distill_task.levels is None else distill_task.levels[level]
    loss = distill_task.losses[level]
    if not isinstance(loss, UncertaintyFeatureLoss) or loss.perturbation is None:
        raise TypeError(f'the loss of task {task!r} makes no Avatars; choose a task whose loss is '
                        'an UncertaintyFeatureLoss with a perturbation')
    teacher = maps[task].teacher[index]
    avatars = maps[task].upstream or TapAvatars(maps[task].teacher)
    generator = torch.Generator(teacher.device).manual_seed(seed)
    drawn = [avatars.draw(loss.perturbation, generator)[index][0] for _ in range(2)]
    variances = avatars.variances(loss.perturbation)
    variance = variances[index] if variances else None
    if variance is None:
        variance = torch.stack([
            (avatars.draw(loss.perturbation, generator)[index] - teacher).square()
            for _ in range(_SAMPLES)]).mean(0)
    # In float32, as the loss compares them: NumPy has no bfloat16.
    return AvatarMaps(
        teacher=teacher[0].float(),
        avatars=[avatar.float() for avatar in drawn],
        student=distill_task.adapters[level](maps[task].student[index])[0],
        deviation=variance.expand_as(teacher)[0].float().sqrt(),
        sigma=loss.sigma[0].flatten() if loss.sigma else None)


def draw_heat_map(ax: Axes, values: Tensor, limit: float, signed: bool = True) -> AxesImage:
    """Draw one channel of a map.

    Args:
        ax (Axes): Where to draw.
        values (Tensor): The channel (H, W).
        limit (float): End of the colour scale, which several maps can share.
        signed (bool): Whether the scale begins at ``-limit`` instead of zero. Defaults to True.

    Returns:
        AxesImage: The image, for a colour bar.
    """
    ax.set(xticks=[], yticks=[])
    return ax.imshow(values.numpy(force=True), 'RdBu_r' if signed else 'magma',
                     vmin=-limit if signed else 0, vmax=limit)


def draw_sigma(ax: Axes, sigma: Tensor, marked: Collection[int] = (),
               names: Sequence[str] | None = None) -> None:
    """Draw sigma of every channel as bars.

    Args:
        ax (Axes): Where to draw.
        sigma (Tensor): The running sigma (C,).
        marked (Collection[int]): Channels drawn in black. Defaults to ().
        names (Sequence[str], optional): Names of the channels. Defaults to None, their numbers.
    """
    colours = ['black' if channel in marked else 'darkgray' for channel in range(len(sigma))]
    ax.bar(range(len(sigma)), sigma.numpy(force=True), color=colours)
    ax.margins(x=0.01)
    ax.spines[['top', 'right']].set_visible(False)
    if names:
        ax.set_xticks(range(len(names)), names)

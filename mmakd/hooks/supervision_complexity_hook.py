"""How hard a teacher's targets are for the student."""
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..distillers import AvatarDistiller
from ..distillers.dry_run import dry_run_samples, on_small_image
from ..distillers.taps import FeatureTaps, forward_to_taps
from ..utils.errors import ConfigError, ConfigProblems, suggest
from ..utils.rng import preserve_rng
from .runner import is_training, unwrapped_model

# Under this name a checkpoint holds the probe images and the first prediction, by task.
_KEY = 'supervision_complexity'
_NUM_IMAGES = 4
_RIDGE = 1e-3


@HOOKS.register_module()
class SupervisionComplexityHook(Hook):
    r"""Logs the supervision complexity :math:`tr(Y^T K^{-1} Y) / n` (arXiv 2301.12245).

    It is small where the teacher's targets vary along the directions in which the student's
    features do, and large where the student would have to change much to predict them. Every
    ``interval`` iterations, beginning with the first, it is measured at n positions of up to four
    images of the first batch (of the main process), one by one, in eval mode:

    - Y (n, C) is the teacher's map minus the student's first one, the one before any step of this
      training, both at the taps of the task. The sum over classes is the trace.
    - K (n, n) is the Gram matrix of the student's last features, the input of its tap. This is the
      part of the tangent kernel that belongs to the tapped layer if it is a 1x1 convolution. A
      ridge of 1e-3 times the mean of the diagonal is added, since features have fewer dimensions
      than there are positions: the part of Y that they cannot express weighs with its inverse.

    The student is the same with and without the hook, bit for bit. Each checkpoint holds, under
    ``supervision_complexity``, the images (as bytes, if the data pipeline gives bytes) and the
    n x C numbers of the first prediction, which a resumed training needs. Logged as
    ``supervision_complexity/<task>``.

    Args:
        interval (int): Iterations from one measurement to the next. Each takes a forward pass for
            each image and the solution of n equations.
        num_positions (int): n, shared by the images. Defaults to 1024.
        task (str, optional): Name of the task. Defaults to None, where there is one.
    """

    # After TeacherCheckpointHook.
    priority = 'NORMAL'

    def __init__(self, interval: int, num_positions: int = 1024, task: str | None = None) -> None:
        problems = ConfigProblems()
        for key, value, least in ('interval', interval, 1), ('num_positions', num_positions,
                                                             _NUM_IMAGES):
            if type(value) is not int or value < least:
                problems.add(f'{key}={value!r}: must be an integer >= {least}')
        problems.raise_if_any()
        self.interval = interval
        self.num_positions = num_positions
        self.task = task
        self._saved: dict[str, Any] = {}
        self._images: list[Tensor] = []
        self._first = torch.zeros(0)

    def before_run(self, runner: Runner) -> None:
        """Check the hook against the model, by a run on a small image.

        Raises:
            ConfigError: If the model has no such task, or its tap is in a RoI head or not a layer
                whose input has the size of its output.
        """
        if not is_training(runner):
            return
        problems = ConfigProblems()
        with problems.under(type(self).__name__):
            model: Any = unwrapped_model(runner)
            name = self._find_task(model)
            teacher = model.teachers[model.taps[name].of].network
            on_small_image(lambda size: _rows(model, name, torch.zeros(3, *size)), model.student,
                           teacher)
        problems.raise_if_any()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the checkpoint holds, for the case that the training resumes."""
        self._saved = checkpoint.get(_KEY, {})

    def before_train(self, runner: Runner) -> None:
        """Take up the images and the first prediction of a resumed training."""
        saved = self._saved.get(self._find_task(unwrapped_model(runner)), {})
        self._images = []
        if runner.iter > 0 and saved.get('num_positions') == self.num_positions:
            # MMEngine has read them onto the accelerator.
            self._images = [image.cpu() for image in saved['images']]
            self._first = saved['first'].cpu()
        elif runner.iter > 0:
            print_log('SupervisionComplexityHook: the checkpoint has no first prediction at '
                      f'{self.num_positions} positions; that of this iteration is taken',
                      'current', level=logging.WARNING)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Measure and log."""
        is_first = not self._images
        if not is_main_process() or not (is_first or runner.iter % self.interval == 0):
            return
        model: Any = unwrapped_model(runner)
        name = self._find_task(model)
        if is_first:
            # Copies, so that a checkpoint does not hold the rest of the batch.
            self._images = [image.cpu().clone() for image in data_batch['inputs'][:_NUM_IMAGES]]
        with preserve_rng(), _evaluating(model):
            features, students, targets = self._probe(model, name)
        if is_first:
            self._first = students
        value = supervision_complexity(features, targets - self._first)
        runner.message_hub.update_scalar(f'train/supervision_complexity/{name}', value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the images and the first prediction."""
        checkpoint.setdefault(_KEY, {})[self._find_task(unwrapped_model(runner))] = dict(
            images=self._images, first=self._first, num_positions=self.num_positions)

    def _probe(self, model: Any, task: str) -> list[Tensor]:
        """Return the :func:`_rows` at the same positions in each call."""
        generator = torch.Generator().manual_seed(0)
        found = []
        for image in self._images:
            rows = _rows(model, task, image)
            chosen = torch.randperm(len(rows[0]), generator=generator)
            chosen = chosen[:self.num_positions // len(self._images)]
            found.append([part.float().cpu()[chosen] for part in rows])
        return [torch.cat(parts) for parts in zip(*found)]

    def _find_task(self, model: nn.Module) -> str:
        if not isinstance(model, AvatarDistiller):
            raise ConfigError(": the model has no distillation tasks; remove the hook or train "
                              "model=dict(type='AvatarDistiller', ...)")
        is_only = self.task is None and len(model.taps) == 1
        name = next(iter(model.taps)) if is_only else self.task
        if name not in model.taps:
            raise ConfigError(f'task={name!r}: the model has no such task; '
                              f'{suggest(name, model.taps)}')
        if model.taps[name].branches:
            raise ConfigError(f'task={name!r}: its positions are RoIs, other ones in each '
                              'iteration; name a task outside RoI heads')
        return name


def supervision_complexity(features: Tensor, residual: Tensor) -> float:
    """Compute ``tr(Y^T K^-1 Y) / n`` in float64.

    Args:
        features (Tensor): (n, D), of which K is the Gram matrix, with the ridge.
        residual (Tensor): Y (n, C).
    """
    features, residual = features.double(), residual.double()
    kernel = features @ features.T
    ridge = _RIDGE * kernel.trace() / len(kernel)
    kernel.diagonal().add_(ridge.clamp(min=torch.finfo(kernel.dtype).tiny))
    solved, _ = torch.linalg.solve_ex(kernel, residual)  # features that are not finite give NaN
    return ((residual * solved).sum() / len(kernel)).item()


@torch.no_grad()
def _rows(model: Any, name: str, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run student and teacher on an image (3, H, W), as the data pipeline gives it.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Input (P, D) of the student's tap, the student's map (P, C)
        and the teacher's (P, C), at all positions of all compared levels.
    """
    pair, task = model.taps[name], model.distiller[name]
    height, width = image.shape[1:]
    data = model.student.data_preprocessor(dict(
        inputs=[image], data_samples=dry_run_samples(model.student, 1, (height, width))))
    inputs, samples = data['inputs'], data['data_samples']
    taps = FeatureTaps(model.student, [pair.student], inputs_of=[pair.student])
    with taps:
        forward_to_taps(model.student, taps.features, inputs, samples)
    taught = model.teachers[pair.of].run([pair], inputs, samples).features[pair.teacher]
    maps, calls = taps.features[pair.student], taps.calls[pair.student]
    features = [args[0] if args else None for args, _ in calls]
    if [getattr(part, 'shape', ())[2:] for part in features] != [part.shape[2:] for part in maps]:
        raise ConfigError(f'task={name!r}: the input of the tap {pair.student!r} has not the size '
                          'of its output; the features are this input, so name a task at a layer '
                          'such as decode_head.conv_seg')
    rows = []
    for adapter, level in zip(task.adapters,
                              range(len(maps)) if task.levels is None else task.levels):
        target = taught[level]
        if target.shape[2:] != maps[level].shape[2:]:
            target = F.interpolate(target.float(), maps[level].shape[2:], mode='bilinear')
        rows.append([part.movedim(1, -1).flatten(0, -2)
                     for part in (features[level], adapter(maps[level]), target)])
    return tuple(torch.cat(parts) for parts in zip(*rows))  # type: ignore[return-value]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Run the block in eval mode, and restore the mode of each module, whatever it was."""
    modules: Sequence[nn.Module] = [*model.modules(), *model.student.modules()]
    modes = [module.training for module in modules]
    model.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode

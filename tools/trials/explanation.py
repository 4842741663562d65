"""Why the headline pair ends as it does: both students trained once more, and measured."""
import copy
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from avatar_scores.evaluation import build_subject, evaluate
from avatar_scores.logits import find_logits
from mmakd.distillers.taps import FeatureTaps
from mmakd.hooks.measured_module import find_measured_module, measure_gradient
from mmakd.hooks.perturbation_hook import avatar_losses
from mmakd.losses.seeded_draws import SeededDraws
from mmakd.utils.rng import mix_seed, preserve_rng, seed_rng
from trials.cells import Cell
from trials.plan import Item, Plan
from trials.tasks import TASKS

PAIR = 'cwd', 'akd-cwd'
NUM_AVATARS = 8
_NUM_BATCHES = 8
_NUM_POINTS = 6
# In the message hub, and so in every checkpoint.
_SIGMA, _GRADIENTS = 'why_sigma', 'why_gradients'


@HOOKS.register_module()
class ExplanationHook(Hook):
    """Measures sigma and the gradient of the distillation while a student trains.

    The student is the same with and without the hook, bit for bit: the gradients are those of a
    copy, on batches of a loader of their own, and the global random streams are restored.

    Args:
        interval (int): Iterations from one sigma to the next. Defaults to 50.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._batches: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Load the batches, the same for every arm."""
        cfg = copy.deepcopy(runner.cfg.train_dataloader)
        with preserve_rng():
            seed_rng(0)
            self._batches = list(islice(Runner.build_dataloader(cfg, seed=0), _NUM_BATCHES))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Measure the gradients, at points that are evenly spaced over the training."""
        if runner.iter in np.linspace(0, runner.max_iters - 1, _NUM_POINTS).round():
            _note(runner, _GRADIENTS, measure_gradients(runner.model, self._batches))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Read sigma, of each channel of each level."""
        sigmas = [sigma.flatten().tolist() for loss in avatar_losses(runner).values()
                  for sigma in loss.sigma]
        if sigmas and runner.iter % self.interval == 0:
            _note(runner, _SIGMA, dict(levels=sigmas))


def _note(runner: Runner, name: str, values: dict[str, Any]) -> None:
    found = runner.message_hub.get_info(name, [])
    runner.message_hub.update_info(name, [*found, dict(iter=runner.iter, **values)])


def measure_gradients(model: Any, batches: Sequence[Any]) -> dict[str, float]:
    """Measure the gradients of a copy of the model at the last stage of its student's backbone.

    Args:
        model (AvatarDistiller): The model in training.
        batches (Sequence): Batches as a dataloader gives them.

    Returns:
        dict[str, float]: ``distill`` and ``task``, the mean norms of the gradients of the
        distillation and of the student's own losses. With g_bk, that of the distillation for
        batch b and draw k of Avatars, and g_b its mean over draws: ``draws``,
        ``E||g_bk - g_b||^2 / E||g_b||^2``, and ``batches``, ``E||g_b - E g_b||^2 / E||g_b||^2``,
        both with the unbiased variance.
    """
    model = copy.deepcopy(model)
    model.distiller.eval()  # all draws see one sigma
    path = find_measured_module(model.student, None)
    weights = [weight for weight in model.student.get_submodule(path).parameters()
               if weight.requires_grad]
    seeded = [module for module in model.distiller.modules() if isinstance(module, SeededDraws)]
    means, found = [], []
    for number, batch in enumerate(batches):
        with preserve_rng():
            seed_rng(number)  # dropout in the student's head
            data = model.data_preprocessor(copy.deepcopy(batch), True)
            own, maps = model.run_with_teacher(model.distiller, **data, mode='loss')
        gradients: list[Any] = []
        for draw in range(NUM_AVATARS):
            for module in seeded:
                module.reseed(mix_seed(number, draw))
            loss = sum(task(maps[name].student, maps[name].teacher, data['data_samples'])
                       for name, task in model.distiller.items())
            gradients.append(measure_gradient(loss, weights))
        drawn = torch.stack(gradients)
        of_task: Any = measure_gradient(model.parse_losses(own)[0], weights)
        means.append(drawn.mean(0))
        found.append(torch.stack([drawn.norm(dim=1).mean(), of_task.norm(), drawn.var(0).sum()]))
    distill, task, draws = torch.stack(found).mean(0)
    square = torch.stack(means).square().sum(1).mean()
    values = dict(distill=distill, task=task, draws=draws / square,
                  batches=torch.stack(means).var(0).sum() / square)
    return {name: value.item() for name, value in values.items()}


@torch.no_grad()
def measure_agreement(model: Any, loader: Any) -> dict[str, float]:
    """Measure how far the student predicts what its teacher does (arXiv 2106.05945).

    Args:
        model (AvatarDistiller): The model.
        loader (DataLoader): The images.

    Returns:
        dict[str, float]: ``agreement``: of the pixels, the share with the same class in both. A
        detector mostly agrees on the background: of the class scores of anchors that reach its
        score threshold in either, the share that do in both. ``divergence``: the mean KL
        divergence of the student's class probabilities from the teacher's, of pixels or of scores.
    """
    model.eval()
    student, teacher = model.student, next(iter(model.teachers.values())).network
    teacher.to(next(student.parameters()).device)
    tap = next(iter(find_logits(teacher)))
    same = seen = number = divergence = 0.0
    for batch in loader:
        of_student, of_teacher = (_log_probabilities(network, tap, batch)
                                  for network in (student, teacher))
        each = F.kl_div(of_student, of_teacher, reduction='none', log_target=True).sum(1)
        divergence, number = divergence + each.double().sum().item(), number + each.numel()
        if of_student.dim() == 4:
            same += (of_student.argmax(1) == of_teacher.argmax(1)).sum().item()
            seen = number
        else:
            found, wanted = (part[:, 1].exp() >= student.bbox_head.test_cfg.score_thr
                             for part in (of_student, of_teacher))
            same, seen = same + (found & wanted).sum().item(), seen + (found | wanted).sum().item()
    return dict(agreement=same / seen if seen else math.nan, divergence=divergence / number)


def _log_probabilities(network: Any, tap: str, batch: Any) -> Tensor:
    """Predict: (N, C, H, W) of the classes, or (n, 2) of each score: whether it is the class."""
    with FeatureTaps(network, [tap]) as taps:
        samples = network.val_step(copy.deepcopy(batch))
    if 'seg_logits' in samples[0]:
        return torch.stack([sample.seg_logits.data for sample in samples]).log_softmax(1)
    logits = torch.cat([part.flatten() for part in taps.features[tap]])
    return F.logsigmoid(torch.stack([-logits, logits], 1))


class MeasuredCell(Cell):
    """A cell with the measuring hook, in a folder of its own."""

    @property
    def work_dir(self) -> Path:
        """Path: Where it trains."""
        return self.place.work / 'why' / super().work_dir.relative_to(self.place.work)

    def config(self) -> Any:
        """Build the config of the training; see :meth:`Cell.config`."""
        cfg = super().config()
        cfg.default_hooks.explanation = dict(type='ExplanationHook')
        return cfg

    def measure(self, runner: Any) -> dict[str, Any]:
        """Add what the hook has measured, the agreement and the scores of Avatars alone."""
        hub = runner.message_hub
        found = dict(sigma=hub.get_info(_SIGMA, []), gradients=hub.get_info(_GRADIENTS, []),
                     **measure_agreement(runner.model, runner.test_dataloader))
        if self.arm == PAIR[1]:
            found['teacher'] = self._evaluate_teacher(runner)
        return _rounded(found)

    def _evaluate_teacher(self, runner: Any) -> list[dict[str, Any]]:
        """Evaluate the teacher, one Avatar and the mean of several, made where the arm does."""
        cfg = self.config()
        for name in 'dataloader', 'evaluator':
            cfg[f'val_{name}'] = cfg[f'test_{name}']
        task = TASKS[self.task]
        teacher = next(iter(runner.model.teachers.values())).network
        tap = next(iter(find_logits(teacher)))
        cfg.model.distill[task.layout].tap = tap
        # A neck's output is the input of the head around the logits.
        place, perturb_at = ('tap', tap) if tap == task.tap else ('upstream', tap.split('.')[0])
        subject = build_subject(cfg, perturb_at=perturb_at)
        rate = getattr(subject.perturbation, subject.rate_key)
        rows = evaluate(cfg, subject, [rate], NUM_AVATARS,
                        next(runner.model.parameters()).device.type, self.seed)
        return [dict(num_avatars=row['num_avatars'], nll=row['nll'], ece=row['ece'],
                     metric=task.scale * row['metrics'].get(task.metric, 0.0))
                for row in rows if row['perturbed'] in (None, place)]


def _rounded(value: Any) -> Any:
    """Round all numbers to four digits; JSON has none that are not finite."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f'{value:.4g}') if math.isfinite(value) else None
    return value


class Explanations(Plan):
    """Tells which measured trainings can be done now; see :class:`Plan`."""

    def cells(self) -> Iterator[Cell]:
        """Iterate over those that are not finished, of the places that are ready."""
        for item in self.items:
            cell = self._cell(item)
            if cell is not None and not self.is_finished(cell):
                yield cell

    def num_missing(self) -> int:
        """Count them."""
        return sum(1 for _ in self.cells())

    def unready(self) -> list[str]:
        """Say which command makes the other places ready."""
        places = {(item.data, item.task) for item in self.items if self._cell(item) is None}
        return [f'{data} {task}: the setting of cwd is not chosen yet, or the teacher is not '
                f'there; run python tools/study.py run --data {data} --task {task} --arms '
                f'{" ".join(PAIR)} --seeds 0' for data, task in sorted(places)]

    def _cell(self, item: Item) -> MeasuredCell | None:
        setting = self.setting(item)
        if isinstance(setting, list):
            return None
        assert item.seed is not None
        cell = MeasuredCell(item.data, item.task, item.arm, item.seed, setting, self.place)
        return cell if all(part.weights.is_file() for part in cell.teachers) else None

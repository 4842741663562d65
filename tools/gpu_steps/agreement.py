"""The CPU and the device agree: losses, gradients and sigma of each criterion; Avatars."""
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from benchmark.variants import make_batch, prepare
from gpu_steps.step import FAILED, LEFT_OUT, PASSED, Row, Setting
from gpu_steps.trainings import toy_config
from mmakd.utils.build import build

# Without anything random: Avatars are drawn by a generator of each device.
CRITERIA: dict[str, dict[str, Any]] = dict(
    BetaSmoothingLoss=dict(alpha=0.0), ChannelWiseDivergence={}, DISTLoss={},
    # All positions, in whatever order.
    DistributionCorrelationLoss=dict(source='avatars', num_positions=10**4),
    EntropyWeightedKDLoss={}, FeatureMSELoss={},
    FGDLoss=dict(alpha_fgd=1e-3, beta_fgd=1e-3, lambda_fgd=1e-3),
    KLDivergence={}, MGDLoss=dict(lambda_mgd=0.0), PKDLoss={},
    MasKDLoss=dict(num_tokens=3, student_masks_begin=None))
# Those that ask for the ground truth of the other task.
NOT_FOR = dict(seg=dict(FGDLoss='needs boxes'), det=dict(BetaSmoothingLoss='needs label maps'))
PERTURBATIONS = ('DropoutPerturbation', 'ChannelDropoutPerturbation', 'DropBlockPerturbation',
                 'GaussianNoisePerturbation')


class Tolerance(NamedTuple):
    """How far the device may be from the CPU.

    Args:
        loss (float): Relative.
        gradient (float): Norm of the difference by the norm, over all parameters.
        sigma (float): Relative.
    """

    loss: float
    gradient: float
    sigma: float


# TF32 has a mantissa of 10 bits.
TOLERANCES = {False: Tolerance(1e-4, 1e-3, 1e-4), True: Tolerance(2e-2, 1e-1, 2e-2)}


def check_agreement(setting: Setting, task: str) -> list[Row]:
    """Compare one step of each criterion, from the same weights and images, on both.

    The student's own losses are left out, so that mmcv needs no CUDA ops.

    Args:
        setting (Setting): Where.
        task (str): ``'det'`` or ``'seg'``.

    Returns:
        list[Row]: A row for each criterion, on a GPU with TF32 off and on.
    """
    rows = []
    for criterion, options in CRITERIA.items():
        if criterion in NOT_FOR[task]:
            rows.append(Row(criterion, NOT_FOR[task][criterion], status=LEFT_OUT))
            continue
        model = _build(setting, task, dict(type=criterion, **options))
        expected = _step(copy.deepcopy(model), setting, 'cpu', task)
        for tf32, tolerance in TOLERANCES.items():
            if tf32 and setting.device == 'cpu':
                continue
            with _tf32(tf32):
                found = _step(copy.deepcopy(model), setting, setting.device, task)
            distances = Tolerance(*(float(_distance(*pair)) for pair in zip(found, expected)))
            is_close = all(distance <= limit for distance, limit in zip(distances, tolerance))
            rows.append(Row(criterion + ', TF32' * tf32, _write(distances),
                            f'<= {_write(tolerance)}', PASSED if is_close else FAILED))
    return rows


def check_avatars(setting: Setting) -> list[Row]:
    """Compare mean and variance of many Avatars with the formulas, on the device.

    Args:
        setting (Setting): Where.

    Returns:
        list[Row]: A row for each perturbation.
    """
    rows = []
    number = 400 if setting.quick else 4000
    feature = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)).to(
        setting.device)
    for name in PERTURBATIONS:
        perturbation = build(dict(type=name))
        generator = torch.Generator(setting.device).manual_seed(0)
        total, squares = torch.zeros_like(feature), torch.zeros_like(feature)
        for _ in range(number):
            deviation = perturbation(feature, generator) - feature
            total += deviation
            squares += deviation.square()
        variance = perturbation.variance(feature)
        # Standard errors; those of the mean have a root mean square of 1.
        bias = (total / number).square().mean().sqrt() / (variance.mean() / number).sqrt()
        ratio = (squares.mean() / number / variance.mean() - 1).abs()
        is_close = bool(bias <= 1.5 and ratio <= 0.05)
        rows.append(Row(name, f'mean {bias:.2f} standard errors off, variance {ratio:.1%}',
                        '<= 1.50, <= 5 %', PASSED if is_close else FAILED))
    return rows


def _build(setting: Setting, task: str, criterion: dict[str, Any]) -> Any:
    cfg = toy_config(setting, task, 'akd-cwd')
    for of_task in cfg.model.distill.values():
        of_task.loss = dict(type='UncertaintyFeatureLoss', criterion=criterion, perturb=False)
    cfg.model.teacher_ckpt = None
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    # Not init_weights(), in which MasKD asks for tokens that it has learned.
    return MODELS.build(cfg.model)


def _step(model: Any, setting: Setting, device: str, task: str) -> tuple[Tensor, Tensor, Tensor]:
    """Give the loss, the gradient and the sigmas, on the CPU."""
    side = 64 if setting.quick else 256
    # A copy's teacher stays where it is; see mmakd.distillers.teacher.
    for teacher in model.teachers.values():
        teacher.network = copy.deepcopy(teacher.network).to(device)
    model = prepare(model, (side, side), device)
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    batch = make_batch('mmdet' if task == 'det' else 'mmseg', (side, side), 2)
    data = model.data_preprocessor(batch, True)
    _, maps = model.run_with_teacher(list(model.distiller), **data, mode='tensor')
    loss: Any = sum(task(maps[name].student, maps[name].teacher, data['data_samples'])
                    for name, task in model.distiller.items())
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()
                          if parameter.grad is not None])
    sigma = torch.cat([sigma.flatten() for task in model.distiller.values()
                       for level in task.losses for sigma in level.sigma])
    return loss.detach().cpu(), gradient.cpu(), sigma.cpu()


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = enabled
    try:
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.allow_tf32 = value


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).norm() / expected.norm()


def _write(numbers: Tolerance) -> str:
    return ', '.join(f'{name} {number:.0e}' for name, number in numbers._asdict().items())

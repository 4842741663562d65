"""Trainings of two steps on a fake GPU, in a process of their own: whole ones and mutants.

The library must be loaded before torch looks for a GPU.
"""
import ctypes
import importlib.util
import inspect
import json
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

PRECISIONS = dict(
    float32=dict(type='OptimWrapper'),
    # A first scale at which nothing overflows, so that the optimizer steps.
    float16=dict(type='AmpOptimWrapper', dtype='float16', loss_scale=dict(init_scale=16.0)),
    bfloat16=dict(type='AmpOptimWrapper', dtype='bfloat16'))
OPTIMIZER = dict(clip_grad=dict(max_norm=1.0),
                 optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
TAPS = dict(retinanet=['neck'], faster_rcnn=['neck', 'roi_head.bbox_head.fc_cls'],
            pspnet=['decode_head.conv_seg'])
# Model, precision, and what else differs.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    f'{name}, {precision}': (name, precision, {}) for name in TAPS for precision in PRECISIONS}
CASES |= {f'{name}, bfloat16 teacher': (name, 'float32', dict(teacher_precision='bfloat16'))
          for name in ('retinanet', 'faster_rcnn')}
CASES['EMA on the CPU'] = 'pspnet', 'float32', dict(ema_device='cpu')
# A method, and the wrong device that is planted in it.
MUTANTS = dict(
    loss=('mmakd.losses.softmax_divergence', 'SoftmaxDivergence.target',
          'self.axis)', 'self.axis).cpu()'),
    sigma=('mmakd.avatars.avatar_variance', 'AvatarVariance.update',
           'feature.new_full((1, ),', 'torch.full((1, ),'),
    teacher=('mmakd.distillers.teacher', 'Teacher.run',
             'taps.features, inputs,', 'taps.features, inputs.cpu(),'),
    perturbation=('mmakd.avatars.dropout', 'DropoutPerturbation.keep_mask',
                  'torch.empty_like(feature,', 'torch.empty(feature.shape,'),
    generator=('mmakd.losses.uncertainty_feature_loss', 'UncertaintyFeatureLoss.run',
               'torch.Generator(device)', 'torch.Generator()'),
    hook=('mmakd.hooks.perturbation_hook', 'PerturbationHook.after_train_iter',
          'sigma.mean()', '(sigma * torch.ones(sigma.shape)).mean()'))


def main(library: str, out: str) -> None:
    torch_folder = Path(importlib.util.find_spec('torch').origin).parent
    ctypes.CDLL(torch_folder / 'lib/libtorch_global_deps.so', ctypes.RTLD_GLOBAL)
    ctypes.CDLL(torch_folder / 'lib/libtorch_cpu.so')
    ctypes.CDLL(library)
    import torch

    from tests.cuda.fake_cuda import fake_cuda
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = dict(cpu={}, cuda={}, mutants={}, steps={})
    for name in TAPS:
        found['cpu'][name] = train(name, 'float32', f'cpu {name}')
    with fake_cuda():
        for key, (name, precision, changes) in CASES.items():
            found['cuda'][key] = train(name, precision, key, **changes)
        for key, mutant in MUTANTS.items():
            with plant(*mutant):
                found['mutants'][key] = train('pspnet', 'float32', f'mutant {key}')
        for name in TAPS:
            found['steps'][name] = [step_waits(name, is_distilled)
                                    for is_distilled in (False, True)]
    Path(out).write_text(json.dumps(found))


def train(name: str, precision: str, experiment: str, ema_device: str | None = None,
          **model: Any) -> dict[str, Any]:
    """What a training logs, and where its tensors are; or its error."""
    from mmengine.dataset import pseudo_collate
    from mmengine.runner import Runner
    from torch.utils.data import DataLoader
    images = [dict(inputs=image, data_samples=sample)
              for image, sample in zip(*batch(name).values())]
    try:
        with mock.patch('mmengine.runner.runner.collect_env', dict):
            runner = Runner(
                model=distilled(name, **model),
                work_dir='work', experiment_name=experiment, log_level='ERROR',
                default_scope='mmseg' if name == 'pspnet' else 'mmdet', randomness=dict(seed=0),
                train_dataloader=DataLoader(images, 2, collate_fn=pseudo_collate),
                train_cfg=dict(by_epoch=False, max_iters=2),
                optim_wrapper=dict(OPTIMIZER, **PRECISIONS[precision]),
                default_hooks=dict(
                    logger=dict(type='LoggerHook', interval=1), checkpoint=None,
                    perturbation=dict(type='PerturbationHook'),
                    distillation_balance=dict(type='DistillationBalanceHook', interval=1)),
                custom_hooks=[dict(type='EMAHook', momentum=0.1, device=ema_device)])
        runner.train()
    except Exception as error:
        return dict(error=type(error).__name__, message=str(error))
    averages = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    devices = {part: sorted({str(value.device) for value in module.state_dict().values()})
               for part, module in dict(model=runner.model, teacher=runner.model.teacher,
                                        averages=averages.module).items()}
    return dict(devices=devices, logged={
        key: values.data[0].tolist() for key, values in runner.message_hub.log_scalars.items()
        if key.startswith('train/') and 'time' not in key and 'memory' not in key})


def distilled(name: str, **settings: Any) -> dict[str, Any]:
    from tests.integration.small_models import small_model
    # Vectors, of RoIs, have one position.
    distill = {f'task{number}': dict(tap=tap, adapter=dict(type='ConvAdapter'), loss=dict(
        type='UncertaintyFeatureLoss', num_avatars=2,
        criterion=dict(type='KLDivergence' if 'fc' in tap else 'ChannelWiseDivergence')))
        for number, tap in enumerate(TAPS[name])}
    network = small_model(name)
    return dict(type='AvatarDistiller', student=network, teacher=network, teacher_ckpt=None,
                distill=distill, **settings)


def batch(name: str) -> dict[str, list]:
    from tests.integration.collectives import make_batch
    return make_batch('seg' if name == 'pspnet' else 'det', 0)


def step_waits(name: str, is_distilled: bool) -> dict[str, int]:
    """How often the host waits in a whole second step, backward and optimizer included."""
    import torch
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope

    from tests.cuda.fake_cuda import waits
    model = distilled(name)
    torch.manual_seed(0)
    init_default_scope('mmseg' if name == 'pspnet' else 'mmdet')
    model = MODELS.build(model if is_distilled else model['student'])
    model = revert_sync_batchnorm(model).to('cuda')
    # The first step is like no other; the second has the same student in both.
    optim_wrapper = build_optim_wrapper(model, dict(OPTIMIZER, optimizer=dict(type='SGD', lr=0.0)))
    for _ in range(2):
        waits.clear()
        torch.manual_seed(0)
        model.train_step(batch(name), optim_wrapper)
    return dict(waits)


def plant(module: str, method: str, text: str, wrong: str) -> Any:
    """Have another text in a method."""
    owner, name = method.split('.')
    cls = getattr(import_module(module), owner)
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(cls, name))))
    assert source.count(text) == 1, (method, source)
    found: dict[str, Any] = {}
    exec(source.replace(text, wrong), vars(import_module(module)), found)
    return mock.patch.object(cls, name, found[name])


if __name__ == '__main__':
    main(*sys.argv[1:])

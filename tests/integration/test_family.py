"""Criteria of the wider family in real trainings, alone and behind Avatars."""
from pathlib import Path

import pytest
import torch

AVATARS = dict(type='UncertaintyFeatureLoss', num_avatars=2)
FOREGROUND = dict(type='EntropyWeightedKDLoss', foreground=True)
LABEL_SMOOTHING = dict(type='KLDivergence', tau=4.0, temperature_on='teacher')
RUNS = {
    'the toy config': ('seg', 'ewkd', None),
    'mean teacher': ('seg', 'meanteacher', None),
    'mean teacher of a detector': ('det', 'meanteacher', None),
    'beta smoothing': ('seg', 'beta-smoothing', None),
    'online distillation': ('seg', 'online', None),
    'with Avatars': ('seg', 'akd-cwd', dict(AVATARS, criterion=dict(
        type='EntropyWeightedKDLoss', gamma=1.0))),
    'a sigmoid for each class': ('det', 'akd-cwd', FOREGROUND),
    'a sigmoid for each class, with Avatars': ('det', 'akd-cwd', dict(
        AVATARS, criterion=FOREGROUND, target='mean')),
    'label smoothing': ('seg', 'cwd', LABEL_SMOOTHING),
    'label smoothing, with Avatars': ('seg', 'akd-cwd', dict(AVATARS, criterion=LABEL_SMOOTHING)),
}


@pytest.mark.parametrize('case', RUNS)
def test_trains_to_the_end(case, toy, model, train):
    task, name, loss = RUNS[case]
    cfg = toy(task, name)
    if loss is not None:
        for of_task in cfg.model.distill.values():
            of_task.loss = dict(loss)
            if task == 'det':
                of_task.update(tap='bbox_head.retina_cls', adapter=None)
    if 'perturbation' in cfg.default_hooks and 'Avatars' not in case:
        del cfg.default_hooks['perturbation']
    if name == 'online':
        Path('work_dirs/teacher_pspnet_shapes').mkdir(parents=True)
        for path in cfg.default_hooks.teacher_checkpoint.checkpoints:
            torch.save(model('seg', 'teacher').state_dict(), path)
    runner = train(cfg)
    assert runner.iter == 4
    logged = {key: values.data[0] for key, values in runner.message_hub.log_scalars.items()
              if key.startswith('train/distill.loss_')}
    assert logged and all(torch.tensor(values).isfinite().all() and (values > 0).all()
                          for values in logged.values())

"""Criteria of the wider family in real trainings, alone and behind Avatars."""
from pathlib import Path

import pytest
import torch

from mmakd.utils.errors import ConfigError

from .states import same

AVATARS = dict(type='UncertaintyFeatureLoss', num_avatars=2)
FOREGROUND = dict(type='EntropyWeightedKDLoss', foreground=True)
GAUSSIANS = dict(type='DistributionCorrelationLoss', source='avatars')
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
    'distributions of boxes': ('det', 'distcorr_gfl_shapes', None),
    'logits as Gaussians': ('seg', 'distcorr', None),
    'logits as Gaussians, with Avatars': ('seg', 'akd-cwd', dict(AVATARS, criterion=GAUSSIANS)),
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


def test_positions_repeat_on_resume(toy, train):
    configs = [toy('seg', 'distcorr', iters=8, **{
        'model.distill.logits.loss.num_positions': 8, 'default_hooks.checkpoint.interval': 4,
        'default_hooks.exact_resume': dict(type='ExactResumeHook')}) for _ in range(2)]
    whole, resumed = configs
    train(whole)
    resumed.load_from, resumed.resume = f'{whole.work_dir}/iter_4.pth', True
    resumed.work_dir += '_resumed'
    train(resumed)
    start, expected, state = (torch.load(path, weights_only=False)['state_dict'] for path in (
        f'{whole.work_dir}/iter_4.pth', f'{whole.work_dir}/iter_8.pth',
        f'{resumed.work_dir}/iter_8.pth'))
    assert not same(expected, state) and same(start, state)


def test_head_without_bins(model):
    loss = dict(_delete_=True, type='DistributionCorrelationLoss', source='bins')
    with pytest.raises(ConfigError, match=r'^model\.distill\.fpn\.loss\.num_bins=17: the map '
                                          'has 36 channels, not 17 for each of 4 sides; tap'):
        model('det', **{'model.distill.fpn': dict(
            tap='bbox_head.retina_reg', loss=loss)})

"""Every config with a mistake in it trains, or is refused with a message that names the key."""
import copy
import itertools
import traceback
import warnings
from collections import Counter
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner

from mmakd.checks import train
from mmakd.utils.errors import ConfigError, describe
from tests.integration.config_mutants import make_mutants

ROOT = Path(__file__).parents[2]
HOOKS = dict(
    perturbation=dict(type='PerturbationHook', mode='linear', start=1.0, end=0.5, begin=0, stop=4),
    distillation_schedule=dict(type='DistillationScheduleHook', mode='cosine', warmup=2))
AKD = dict(type='UncertaintyFeatureLoss', criterion=dict(type='FGDLoss', temp=0.5, alpha_fgd=1e-3),
           perturbation=dict(type='DropBlockPerturbation', drop_rate=0.1, block_size=2),
           uncertainty=dict(type='AvatarVariance', momentum=0.1, estimator='sampled'),
           num_avatars=2, loss_weight=1.0)


class Trained(BaseException):
    """The first iteration is over."""


def load(path, **changes):
    cfg = Config.fromfile(ROOT / path)
    if 'teacher_ckpt' in cfg.model:
        cfg.model.teacher_ckpt = None
    cfg.train_dataloader.batch_size = 2
    if 'custom_hooks' in changes:
        del cfg.default_hooks.perturbation
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture
def configs():
    det = load('configs/det/toy/akd-cwd_retinanet_shapes.py', default_hooks=copy.deepcopy(HOOKS))
    det.model.update(teacher_strict=True, skip_nonfinite=False, teacher_precision='bfloat16')
    det.model.distill.cls = dict(
        student_tap='bbox_head.retina_cls', teacher_tap='bbox_head.retina_cls', levels=[0, 1],
        adapter=None, loss=dict(type='KLDivergence', tau=2.0, loss_weight=1.0))
    focal = load('configs/det/toy/akd-cwd_retinanet_shapes.py')
    focal.model.distill = dict(backbone=dict(
        tap='backbone', levels=[1, 2], adapter=dict(type='ConvAdapter', kernel_size=3),
        resize=True, loss=copy.deepcopy(AKD)))
    seg = load('configs/seg/toy/akd-cwd_pspnet_shapes.py', default_hooks=copy.deepcopy(HOOKS))
    return [det, seg, focal, seg, det, load('configs/det/toy/maskd-tokens_retinanet_shapes.py')]


@pytest.fixture
def attempt(workspace, monkeypatch):
    """Do with a config what tools/train.py does, as far as the end of the first iteration."""
    numbers = itertools.count()
    original = Runner.call_hook

    def call_hook(self, name, **kwargs):
        original(self, name, **kwargs)
        if name == 'after_train_iter':
            raise Trained

    monkeypatch.setattr(Runner, 'call_hook', call_hook)

    def run(cfg):
        DefaultScope._instance_dict.clear()
        cfg.launcher, cfg.log_level = 'none', 'ERROR'
        cfg.work_dir = str(workspace / 'work')
        cfg.experiment_name = f'mutant_{next(numbers)}'
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                train(cfg, partial=True)
        except Trained:
            return None
        except Exception as error:
            return error
        return AssertionError('nothing was trained')

    return run


def survey(mutants, attempt, tell):
    """Try mutants, and tell what came of them; return those that went wrong."""
    results, silent, bad = Counter(), [], []
    for mutant in mutants:
        error = attempt(mutant.cfg)
        if error is None and not mutant.is_mistake:
            results['trained'] += 1
            silent.append(mutant.what)
        elif error is None:
            results['trained in silence'] += 1
            bad.append(f'{mutant.what}: trains')
        elif isinstance(error, ConfigError) and any(name in str(error) for name in mutant.names):
            results['refused by name'] += 1
        else:
            results['failed badly'] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            bad.append(f'{mutant.what}: {type(error).__name__}: {str(error)[:300]} '
                       f'({where.filename}:{where.lineno})')
    print('Trained:', *silent, sep='\n  ')
    tell(f'mutants of configs: {sum(results.values())}, of them '
         + ', '.join(f'{number} {result}' for result, number in results.items()))
    return bad


def test_configs_train(configs, attempt):
    for cfg in configs:
        assert attempt(cfg) is None


def test_some_mutants(configs, attempt, tell):
    bad = survey(make_mutants(configs, 40, seed=0), attempt, tell)
    assert not bad, '\n'.join(bad)


@pytest.mark.slow
def test_many_mutants(configs, attempt, tell):
    bad = survey(make_mutants(configs, 300, seed=1), attempt, tell)
    assert not bad, '\n'.join(bad)


@pytest.mark.slow
def test_mutants_of_real_size(tell):
    """Of the model alone, which takes its networks from the installed packages."""
    from benchmark.variants import make_batch, prepare

    def step(cfg):
        init_default_scope(cfg.default_scope)
        try:
            model = prepare(MODELS.build(cfg.model), (128, 128), 'cpu')
            data = model.data_preprocessor(make_batch(cfg.default_scope, (128, 128), 2), True)
            model.parse_losses(model(**data, mode='loss'))[0].backward()
        except ConfigError as error:
            return error
        except Exception as error:
            return ConfigError(f'model: {describe(error)}')

    configs = [load(f'configs/{path}.py') for path in (
        'det/retinanet/akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco',
        'seg/pspnet/akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024')]
    for cfg in configs:
        cfg.model.teacher_ckpt = None
    mutants = (mutant for mutant in make_mutants(configs, 60, seed=2)
               if mutant.what.startswith('model.'))
    bad = survey(itertools.islice(mutants, 20), step, tell)
    assert not bad, '\n'.join(bad)

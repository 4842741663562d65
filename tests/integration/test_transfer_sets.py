"""Trainings in which some images have no labels, on real data with real models."""
import copy
import functools
import textwrap
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from torch.utils import checkpoint

from mmakd.distillers.taps import FeatureTaps, forward_to_taps
from mmakd.utils.errors import ConfigError

from .small_models import SMALL_MODELS, small_config, with_distillation
from .states import same

ROOT = Path(__file__).parents[2]

MSE = dict(type='FeatureMSELoss', loss_weight=2.0)
TASKS = {'det': 'fpn', 'seg': 'logits'}


def with_transfer_set(cfg):
    """Have the second half of each batch lose its labels."""
    own = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='TransferSetDataset', labelled=own, unlabelled=[own, own], ratio=0.5)
    cfg.train_dataloader.batch_sampler = dict(type='TransferBatchSampler')
    return cfg


def prepare(cfg):
    """A model in train mode, and a batch of two labelled and two unlabelled images."""
    runner = Runner.from_cfg(cfg)
    runner.message_hub.update_info('iter', 0)
    model = revert_sync_batchnorm(runner.model).train()
    batch = next(iter(runner.build_dataloader(cfg.train_dataloader, seed=0)))
    return model, model.data_preprocessor(batch, True)


def take(data, *indices):
    return dict(inputs=data['inputs'][list(indices)],
                data_samples=[data['data_samples'][index] for index in indices])


def step(model, data):
    """The losses of a step, and the model after it."""
    model = copy.deepcopy(model)
    torch.manual_seed(0)  # of the student's dropout and samplers
    return model(**copy.deepcopy(data), mode='loss'), model


def assert_same_student(first, second):
    """Compare own losses, and all that a step changes before the optimizer: the buffers."""
    own, others = ({name: value for name, value in losses.items()
                    if not name.startswith('distill.')} for losses, _ in (first, second))
    assert own and not same(own, others)
    buffers, expected = (dict(model.student.named_buffers()) for _, model in (first, second))
    assert buffers and not same(buffers, expected)


@pytest.mark.parametrize('name', SMALL_MODELS)
def test_students_losses_are_those_of_the_labelled_images_alone(name, toy):
    cfg = with_transfer_set(with_distillation(small_config(name, toy), name))
    model, data = prepare(cfg)
    mixed, alone = step(model, data), step(model, take(data, 0, 1))
    assert_same_student(mixed, alone)
    assert mixed[0]['distill.loss_task'] > 0
    # What is compared in a RoI head is a matter of RoIs, which need labels.
    assert (mixed[0]['distill.loss_task'] == alone[0]['distill.loss_task']) == (
        name == 'faster_rcnn')


@pytest.mark.parametrize('task', TASKS)
def test_loss_is_that_of_both_parts(task, toy):
    name = TASKS[task]
    cfg = toy(task, 'transfer')
    cfg.model.distill[name].loss = MSE
    if task == 'seg':
        cfg.model.student.decode_head.dropout_ratio = 0
    model, data = prepare(cfg)
    tap = model.taps[name].student
    of_parts = []
    for part in take(data, 0, 1), take(data, 2, 3):
        maps = []
        for network in copy.deepcopy(model.student), model.teacher:
            with FeatureTaps(network, [tap]) as taps, torch.no_grad():
                forward_to_taps(network, [tap], **part)
            maps.append(taps.features[tap])
        of_parts.append(sum(
            (adapter(student) - teacher).square().mean() for adapter, student, teacher
            in zip(model.distiller[name].adapters, *maps)))
    assert not torch.isclose(*of_parts)
    loss = step(model, data)[0][f'distill.loss_{name}']
    torch.testing.assert_close(loss, MSE['loss_weight'] * sum(of_parts) / 2)


def test_order_in_the_batch_does_not_matter(toy):
    model, data = prepare(toy('det', 'transfer'))
    expected, shuffled = step(model, data), step(model, take(data, 2, 0, 3, 1))
    assert_same_student(expected, shuffled)
    assert torch.equal(expected[0]['distill.loss_fpn'], shuffled[0]['distill.loss_fpn'])


def test_each_teacher_runs_once(toy):
    model, data = prepare(toy('seg', 'transfer'))
    seen = {'student': [], 'teacher': []}
    for side, images in seen.items():
        getattr(model, side).backbone.register_forward_hook(
            lambda module, args, output, images=images: images.append(len(args[0])))
    model(**data, mode='loss')
    assert seen == {'student': [2, 2], 'teacher': [4]}
    seen['student'].clear()
    model.distiller.logits.weight_factor = 0.0
    model(**data, mode='loss')
    assert seen == {'student': [2], 'teacher': [4]}


def test_batch_of_labelled_images_is_left_as_it_is(toy):
    model, data = prepare(toy('seg', 'transfer'))
    data = take(data, 0, 1)
    seen = []
    forward = model.student.forward
    model.student.forward = lambda *args, **kwargs: seen.append(args) or forward(*args, **kwargs)
    model(**data, mode='loss')
    assert len(seen) == 1
    assert seen[0][0] is data['inputs'] and seen[0][1] is data['data_samples']


def test_batch_without_labels(toy):
    model, data = prepare(toy('seg', 'transfer'))
    with pytest.raises(ConfigError, match=r'^train_dataloader.batch_sampler: a batch has no'):
        model(**take(data, 2, 3), mode='loss')


FGD = dict(type='FGDLoss')
AKD_FGD = dict(type='UncertaintyFeatureLoss', criterion=FGD,
               uncertainty=dict(type='AvatarVariance', estimator='sampled'))


@pytest.mark.parametrize('task', [dict(loss=FGD), dict(loss=AKD_FGD),
                                  dict(loss=AKD_FGD, perturb_at='neck')])
def test_loss_that_needs_labels_compares_the_labelled_images(task, toy):
    cfg = toy('det', 'transfer')
    cfg.model.distill = dict(fgd=dict(tap='neck', **task), fpn=dict(tap='neck', loss=MSE))
    model, data = prepare(cfg)
    mixed, alone = step(model, data)[0], step(model, take(data, 0, 1))[0]
    torch.testing.assert_close(mixed['distill.loss_fgd'], alone['distill.loss_fgd'])
    assert mixed['distill.loss_fpn'] != alone['distill.loss_fpn']


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointed_blocks(reentrant, toy, monkeypatch):
    monkeypatch.setattr(checkpoint, 'checkpoint', functools.partial(
        checkpoint.checkpoint, use_reentrant=reentrant))
    model, data = prepare(toy('det', 'transfer', **{'model.student.backbone.with_cp': True}))
    gradients = []
    for with_cp in True, False:
        each = copy.deepcopy(model)
        for block in each.student.modules():
            if hasattr(block, 'with_cp'):
                block.with_cp = with_cp
        each.parse_losses(each(**copy.deepcopy(data), mode='loss'))[0].backward()
        gradients.append([p.grad for p in each.parameters()])
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('task', TASKS)
def test_student_without_teacher_stops(task, toy):
    cfg = toy(task, 'transfer')
    cfg.model = cfg.model.student
    model, data = prepare(cfg)
    with pytest.raises(AttributeError, match='gt_sem_seg' if task == 'seg' else 'labels'):
        model(**data, mode='loss')


@pytest.mark.parametrize('task, name', [
    ('det', 'transfer'), ('seg', 'transfer'), ('seg', 'transfer-other'),
    ('seg', 'transfer-mixed')])
def test_trains_to_the_end(task, name, toy, train):
    runner = train(toy(task, name))
    assert runner.iter == (4 if task == 'seg' else 8)  # an epoch of 16 labelled images
    logged = runner.message_hub.log_scalars
    for name in f'distill.loss_{TASKS[task]}', 'loss':
        values = torch.tensor(logged[f'train/{name}'].data[0])
        assert values.isfinite().all() and (values > 0).all()


# Where training is taken up, and where it ends.
CHECKPOINTS = dict(det=('epoch_1.pth', 'epoch_2.pth'), seg=('iter_4.pth', 'iter_8.pth'))
WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}


def resumable(toy, task, **changes):
    cfg = toy(task, 'transfer', iters=8, **changes)
    cfg.default_hooks.exact_resume = dict(type='ExactResumeHook')
    cfg.default_hooks.checkpoint.interval = 4 if task == 'seg' else 1
    cfg.train_cfg.val_interval = 100
    # Other images than the labelled ones, of which there are 16.
    for part, indices in ('labelled', 6), ('unlabelled', -10):
        cfg.train_dataloader.dataset[part].indices = indices
    return cfg


@pytest.mark.parametrize('task, changes', [
    ('det', {}), ('seg', WORKERS),
    pytest.param('seg', {'randomness': dict(seed=None)}, marks=pytest.mark.slow)])
def test_resumes_exactly(task, changes, toy, train, tmp_path):
    half, end = CHECKPOINTS[task]
    configs = [resumable(toy, task, **changes) for _ in range(2)]
    whole, resumed = configs
    # Without a seed a random teacher would be another one.
    torch.save(prepare(resumable(toy, task))[0].teacher.state_dict(), tmp_path / 'teacher.pth')
    for cfg in configs:
        cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    train(whole)
    resumed.load_from, resumed.resume = f'{whole.work_dir}/{half}', True
    resumed.work_dir += '_resumed'
    train(resumed)
    start, expected, state = (torch.load(path, weights_only=False) for path in (
        f'{whole.work_dir}/{half}', f'{whole.work_dir}/{end}', f'{resumed.work_dir}/{end}'))
    for part in 'state_dict', 'optimizer', 'param_schedulers':
        assert not same(expected[part], state[part]), part
    assert same(start['state_dict'], state['state_dict'])


HOOK = """
    import torch
    from mmengine.dist import get_rank
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS
    from mmakd.datasets import has_labels


    @HOOKS.register_module()
    class DumpState(Hook):
        priority = 'LOWEST'
        seen = []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.seen += [(has_labels(sample), sample.img_path)
                          for sample in data_batch['data_samples']]
            parameters = dict(runner.model.module.named_parameters())
            torch.save((parameters, self.seen), f'rank{get_rank()}.pth')
"""


def test_two_ranks(workspace, script, monkeypatch, free_port):
    (workspace / 'dump_state.py').write_text(textwrap.dedent(HOOK))
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/seg/toy/transfer_pspnet_shapes.py'
        custom_imports = dict(imports=['mmakd', 'dump_state'], allow_failed_imports=False)
        model = dict(teacher_ckpt=None)
        custom_hooks = [dict(type='DumpState')]
        train_dataloader = dict(batch_size=4, dataset=dict(
            labelled=dict(indices=6), unlabelled=dict(indices=-10)))
        train_cfg = dict(max_iters=3, val_interval=10)
    """))
    monkeypatch.setenv('PYTHONPATH', f'{workspace}:{ROOT}')
    monkeypatch.setenv('PORT', free_port)
    script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2)
    (first, seen), (second, elsewhere) = (torch.load(f'rank{rank}.pth') for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for images in seen, elsewhere:
        assert [labelled for labelled, _ in images] == [True, True, False, False] * 3
    # Two passes over the 6 labelled images, and more than one over the 10 others.
    counts = {labelled: Counter(path for which, path in seen + elsewhere if which == labelled)
              for labelled in (True, False)}
    assert sorted(counts[True].values()) == [2] * 6
    assert len(counts[False]) == 10 and not set(counts[True]) & set(counts[False])

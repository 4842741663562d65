"""The hook inside real Runners, against shares by two explicit backward passes."""
import copy
import math
import statistics
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from mmakd.hooks import DistillationBalanceHook
from mmakd.hooks.measured_module import find_measured_module
from mmakd.utils.amp import CPUAmpOptimWrapper
from mmakd.utils.errors import ConfigError
from tests.integration.comparison import assert_same_student, logged
from tests.integration.small_models import small_model
from tests.integration.states import same

ROOT = Path(__file__).parents[2]
KEY = 'DistillationBalanceHook'
TASKS = dict(det='fpn', seg='logits')
BFLOAT16 = {'optim_wrapper.type': CPUAmpOptimWrapper.__name__}
PLACES = dict(det='backbone.layer4', seg='backbone.layer3')
# With a teacher of random weights, these give shares of about a half.
WEIGHTS = {'fpn': 0.1, 'logits': 30.0}


def unbalanced(toy, task, name='akd-cwd', iters=4, changes=None):
    """A toy config without the hook."""
    weight = {f'model.distill.{TASKS[task]}.loss.loss_weight': WEIGHTS[TASKS[task]]}
    return toy(task, name, iters=iters, **{
        'train_cfg.val_interval': 100, **weight, **(changes or {})})


def balanced(toy, task, name='akd-cwd', iters=4, changes=None, **options):
    """A toy config with it."""
    cfg = unbalanced(toy, task, name, iters, changes)
    cfg.default_hooks.distillation_balance = dict(type=KEY, **options)
    return cfg


def measured(runner):
    log = logged(runner)
    return log['train/distill_balance/share'], log['train/distill_balance/weight']


def share_of(model, data, state, path, factors):
    """The share at a module, by two steps of copies that start and draw alike."""
    norms = []
    for is_distilled in True, False:
        network = copy.deepcopy(model)
        for task, factor in zip(network.distiller.values(), factors):
            task.balance_factor = factor
        with torch.random.fork_rng():
            torch.set_rng_state(state)
            losses = network(**network.data_preprocessor(copy.deepcopy(data), True), mode='loss')
        chosen = [value if torch.is_tensor(value) else sum(value) for key, value in losses.items()
                  if 'loss' in key and key.startswith('distill.') == is_distilled]
        sum(chosen).backward()
        squares = [(weight.grad ** 2).sum().item()
                   for weight in network.get_submodule(path).parameters()]
        norms.append(math.sqrt(sum(squares)))
    return norms[0] / sum(norms)


class Expect(Hook):
    """Computes the share of each iteration, at the old factor and, behind it, at the new one."""

    priority = 'VERY_LOW'

    def __init__(self, path):
        self.path = path
        self.before, self.after = [], []

    def factors(self, runner):
        return [task.balance_factor for task in runner.model.distiller.values()]

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        # A copy draws the same Avatars.
        self.start = copy.deepcopy(runner.model), copy.deepcopy(data_batch), torch.get_rng_state()
        self.before.append(share_of(*self.start, self.path, self.factors(runner)))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after.append(share_of(*self.start, self.path, self.factors(runner)))


@pytest.mark.parametrize('task, at', [('det', None), ('seg', None), ('det', 'neck.fpn_convs')])
def test_share_is_that_of_explicit_backward_passes(task, at, toy):
    expected = Expect(at or PLACES[task])
    runner = Runner.from_cfg(balanced(toy, task, share=0.5, band=0.001, interval=1, at=at))
    runner.register_hook(expected)
    runner.train()
    shares, weights = measured(runner)
    assert shares == pytest.approx(expected.before, rel=1e-3)
    assert all(weight != before for weight, before in zip(weights, [1.0, *weights]))
    # On the same batch, the new weight gives the share aimed at.
    for share, weight in zip(expected.after, weights):
        assert weight in (0.1, 10.0) or share == pytest.approx(0.5, rel=1e-3)
    assert sum(weight not in (0.1, 10.0) for weight in weights) >= 2


@pytest.mark.parametrize('share, weight', [(0.001, 0.1), (0.9999, 10.0)])
def test_weight_is_clipped(share, weight, toy, train):
    runner = train(balanced(toy, 'seg', iters=3, share=share, band=1e-6, interval=1))
    assert measured(runner)[1] == [weight] * 3
    weight *= WEIGHTS['logits']
    assert runner.model.distiller['logits'].loss_weight == pytest.approx(weight)


def test_interval_and_logged_loss(toy, train):
    plain = train(unbalanced(toy, 'seg', iters=5))
    runner = train(balanced(toy, 'seg', iters=5, interval=2))
    shares, weights = measured(runner)
    assert len(shares) == len(weights) == 3
    # The first step has the config's weight, and so the second the same student.
    losses, unscaled = (logged(r)['train/distill.loss_logits'] for r in (runner, plain))
    assert losses[0] == unscaled[0] and losses[1] == pytest.approx(weights[0] * unscaled[1])
    assert logged(runner)['train/loss'][2] != logged(plain)['train/loss'][2]


@pytest.mark.parametrize('task, company', [
    ('det', {}),
    pytest.param('seg', {'optim_wrapper.accumulative_counts': 2, **BFLOAT16,
                         'custom_hooks': [dict(type='EMAHook')]}, marks=pytest.mark.slow),
])
def test_inside_the_band_nothing_changes(task, company, toy, train):
    plain = train(unbalanced(toy, task, changes=company))
    runner = train(balanced(toy, task, share=0.5, band=0.5, interval=1, changes=company))
    shares, weights = measured(runner)
    assert all(0 < share < 1 for share in shares) and weights == [1.0] * 4
    assert same(runner.model.state_dict(), plain.model.state_dict()) == []
    assert same(runner.optim_wrapper.state_dict(), plain.optim_wrapper.state_dict()) == []
    log = logged(runner)
    assert all(log[key] == values for key, values in logged(plain).items())


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_weight_zero_is_plain_training(task, toy, train):
    zero = {f'model.distill.{TASKS[task]}.loss.loss_weight': 0}
    runner = train(balanced(toy, task, interval=1, changes=zero))
    assert_same_student(train(toy(task, 'student', **{'train_cfg.val_interval': 100})), runner)
    assert 'train/distill_balance/share' not in logged(runner)


def with_schedule(**options):
    return {'default_hooks.distillation_schedule': dict(
        type='DistillationScheduleHook', **options)}


def test_schedule_is_not_undone(toy, train):
    """Its factor multiplies ours; where it is zero, nothing is measured."""
    plain = train(balanced(toy, 'seg', iters=1, share=0.5, band=0.001))
    scheduled = train(balanced(toy, 'seg', iters=4, share=0.5, band=0.001, interval=1,
                               changes=with_schedule(start=0.25, stop=3)))
    assert measured(plain)[0] == pytest.approx(measured(scheduled)[0][:1], rel=1e-4)
    assert measured(plain)[1] == pytest.approx(measured(scheduled)[1][:1], rel=1e-2)
    assert len(measured(scheduled)[0]) == 3
    weight = measured(scheduled)[1][-1]
    assert scheduled.model.distiller['logits'].loss_weight == 0
    assert scheduled.model.distiller['logits'].balance_factor == weight != 1


def two_tasks(cfg):
    low = copy.deepcopy(cfg.model.distill.logits)
    low.tap = 'backbone.layer3'
    cfg.model.distill.low = low
    return cfg


def test_tasks_get_one_factor_together(toy):
    cfg = two_tasks(balanced(toy, 'seg', 'cwd', share=0.5, band=0.001, interval=1))
    expected = Expect(PLACES['seg'])
    runner = Runner.from_cfg(cfg)
    runner.register_hook(expected)
    runner.train()
    assert measured(runner)[0] == pytest.approx(expected.before, rel=1e-3)
    both = [task.balance_factor for task in runner.model.distiller.values()]
    assert both == [measured(runner)[1][-1]] * 2 and both[0] != 1


def test_named_tasks(toy, train):
    runner = train(two_tasks(balanced(toy, 'seg', 'cwd', share=0.5, band=0.001, tasks=['low'])))
    factors = {name: task.balance_factor for name, task in runner.model.distiller.items()}
    assert factors['logits'] == 1 != factors['low'] == measured(runner)[1][-1]


@pytest.mark.parametrize('company', [{}, pytest.param(BFLOAT16, marks=pytest.mark.slow)])
def test_resumed_run_goes_on(company, toy, train):
    """The checkpoint lies between two measurements, so that its factor counts."""
    changes = {**company, 'default_hooks.exact_resume': dict(type='ExactResumeHook'),
               'default_hooks.checkpoint.interval': 4,
               'default_hooks.checkpoint.max_keep_ckpts': -1}
    options = dict(iters=8, share=0.5, band=0.001, interval=3)
    whole = train(balanced(toy, 'seg', changes=changes, **options))
    cfg = balanced(toy, 'seg', changes=changes, **options)
    cfg.load_from, cfg.resume = f'{whole.work_dir}/iter_4.pth', True
    cfg.work_dir += '_resumed'
    resumed = train(cfg)
    assert len(set(measured(whole)[1])) == 3
    assert same(resumed.model.state_dict(), whole.model.state_dict()) == []
    assert same(resumed.optim_wrapper.state_dict(), whole.optim_wrapper.state_dict()) == []
    assert measured(resumed) == measured(whole)


class ScaledOptimWrapper(OptimWrapper):
    """The scaler of ``AmpOptimWrapper``, which refuses to run on a CPU."""

    def __init__(self, init_scale, **options):
        super().__init__(**options)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=init_scale)

    def backward(self, loss, **options):
        self.loss_scaler.scale(loss).backward(**options)
        self._inner_count += 1

    def step(self, **options):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


@pytest.mark.skipif(torch.__version__ < '2.3', reason='torch before 2.3 has no scaler on the CPU')
def test_scaled_loss(toy):
    """The scale of float16 does not matter, and an overflow changes nothing."""
    shares = {}
    for scale in 1.0, 2.0**16, math.inf:
        runner = Runner.from_cfg(balanced(toy, 'seg', iters=1, share=0.5))
        runner.optim_wrapper = ScaledOptimWrapper(
            scale, optimizer=torch.optim.SGD(runner.model.parameters(), lr=0.1))
        runner.model.init_weights()
        before = copy.deepcopy(runner.model.backbone.state_dict())
        runner.train()
        changed = same(before, runner.model.backbone.state_dict())
        assert any('weight' in path for path in changed) == (scale < math.inf)
        shares[scale] = logged(runner).get('train/distill_balance/share')
    assert shares[2.0**16] == shares[1.0] is not None
    assert shares[math.inf] is None and runner.model.distiller['logits'].balance_factor == 1


class Spoil(Hook):
    """Makes the student's logits infinite."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        with torch.no_grad():
            runner.model.decode_head.conv_seg.bias.fill_(math.inf)


@pytest.mark.parametrize('is_distributed', [False, True])
def test_skipped_step_is_not_measured(is_distributed, toy, monkeypatch):
    # There a skipped loss depends on the adapter, so that DDP does not wait for its gradient.
    monkeypatch.setattr('mmakd.distillers.avatar_distiller.is_distributed', lambda: is_distributed)
    runner = Runner.from_cfg(balanced(toy, 'seg', 'cwd', iters=1, changes={
        'model.skip_nonfinite': True,
        'model.distill.logits.adapter': dict(type='ConvAdapter')}))
    runner.register_hook(Spoil())
    runner.train()
    assert logged(runner)['train/distill.skipped_steps'] == [1]
    assert 'train/distill_balance/share' not in logged(runner)


@pytest.mark.slow
def test_compiled_student(toy, train):
    """The hook sees the first and later steps of the compiled student."""
    options = dict(iters=3, share=0.5, band=0.001, interval=2)
    torch._dynamo.reset()
    compiled = train(balanced(toy, 'seg', changes=dict(compile=dict(backend='eager')), **options))
    torch._dynamo.reset()
    plain = train(balanced(toy, 'seg', **options))
    for found, expected in zip(measured(compiled), measured(plain)):
        assert found == pytest.approx(expected, rel=1e-2) and len(found) == 2


class Clock(Hook):
    """Times each iteration without its loading."""

    def __init__(self):
        self.times = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.start = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.times.append(time.perf_counter() - self.start)


def test_cost(toy, tell):
    """Two backward passes as far as the module, less than half a step."""
    clock = Clock()
    runner = Runner.from_cfg(balanced(toy, 'det', iters=40, interval=2))
    runner.register_hook(clock)
    runner.train()
    # Without the first steps, which warm up.
    ratio = statistics.median(clock.times[4::2]) / statistics.median(clock.times[5::2])
    tell(f'an iteration that measures the share takes {ratio:.2f} times as long')
    assert len(measured(runner)[0]) == 20 and ratio < 1.5


@pytest.mark.parametrize('options, start', [
    (dict(share=0), 'share=0: must be a number between 0 and 1'),
    (dict(share=1.0), 'share=1.0: must be'),
    (dict(share='0.1'), "share='0.1': must be"),
    (dict(band=0), 'band=0: must be a number > 0, and share=0.1 +- band within 0 and 1'),
    (dict(band=0.2), 'band=0.2: must be'),
    (dict(share=0.9, band=0.2), 'band=0.2: must be'),
    (dict(band=None), 'band=None: must be'),
    (dict(interval=0), 'interval=0: must be an integer >= 1'),
    (dict(interval=True), 'interval=True: must be'),
    (dict(tasks='fpn'), "tasks='fpn': must be None (all tasks) or a list of names"),
])
def test_bad_argument_is_named(options, start):
    with pytest.raises(ConfigError) as caught:
        DistillationBalanceHook(**options)
    problem, = caught.value.problems
    assert problem.startswith(start)


def test_bad_arguments_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        DistillationBalanceHook(share=2, interval=-1, tasks=[])
    assert len(caught.value.problems) == 3


CHECKPOINTED = {'model.student.backbone.with_cp': True}


@pytest.mark.parametrize('options, changes, messages', [
    (dict(tasks=['logit'], at='backbone.layre3'), {},
     [".tasks=['logit']: the model has no task 'logit'; did you mean 'logits'?",
      ".at='backbone.layre3': the student (EncoderDecoder) has no such module; did you mean "
      "'backbone.layer3'"]),
    (dict(at=3), {}, ['.at=3: the student (EncoderDecoder) has no such module']),
    (dict(at='decode_head.dropout'), {}, [
        ".at='decode_head.dropout': has no trainable parameters; name another module"]),
    (dict(), {'model.student.backbone.frozen_stages': 3}, [
        ".at='backbone': has no trainable parameters"]),
    (dict(), CHECKPOINTED, [".at='backbone.layer3': no gradient can be measured in or before"]),
    (dict(at='backbone.stem'), CHECKPOINTED, [".at='backbone.stem': no gradient can be"]),
    (dict(), {'default_hooks.another': dict(type=KEY)}, [': the config has 2 such hooks']),
])
def test_misfit_stops_before_the_first_batch(options, changes, messages, toy):
    runner = Runner.from_cfg(balanced(toy, 'seg', changes=changes, **options))
    with pytest.raises(ConfigError) as caught:
        runner.train()
    problems = caught.value.problems
    assert len(problems) == len(messages) and runner.iter == 0
    for problem, message in zip(problems, messages):
        assert problem.startswith(KEY + message)


def test_module_behind_checkpointed_blocks(toy, train):
    """The same share as without checkpointing."""
    options = dict(iters=1, share=0.5, at='decode_head.bottleneck')
    assert measured(train(balanced(toy, 'seg', changes=CHECKPOINTED, **options))) == measured(
        train(balanced(toy, 'seg', **options)))


def test_model_without_distillation(toy):
    cfg = toy('seg', 'student')
    cfg.custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
    cfg.default_hooks.distillation_balance = dict(type=KEY)
    with pytest.raises(ConfigError, match=f'{KEY}: the model has no distillation tasks; remove'):
        Runner.from_cfg(cfg).train()


def test_testing_needs_nothing_of_the_training(toy):
    cfg = balanced(toy, 'seg', at='nowhere')
    cfg.train_dataloader.dataset.data_root = 'nowhere'
    assert 'mIoU' in Runner.from_cfg(cfg).test()


@pytest.mark.parametrize('tap, at, message', [
    ('backbone.layer2', None, "at='backbone.layer3': the tasks' losses have no gradient there; "
     "name a module that both train, e.g. the tapped one, at='backbone.layer2'"),
    ('decode_head.conv_seg', 'auxiliary_head.conv_seg', "the tasks' losses have no gradient"),
])
def test_module_that_one_side_does_not_train(tap, at, message, toy, train):
    head = dict(type='FCNHead', in_channels=16, in_index=1, channels=8, num_convs=1, num_classes=7,
                norm_cfg=dict(type='BN'), align_corners=False,
                loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))
    cfg = balanced(toy, 'seg', at=at, changes={
        'model.distill.logits.tap': tap, 'model.student.auxiliary_head': head})
    with pytest.raises(ConfigError) as caught:
        train(cfg)
    assert message in str(caught.value) and caught.value.on_all_ranks


STAGES = dict(retinanet='layer4', fcos='layer4', rtmdet='stage4', yolox='stage4',
              pspnet='layer4', segformer='layers.3')


@pytest.mark.parametrize('name', STAGES)
def test_last_stage(name):
    student = MODELS.build(small_model(name))
    assert find_measured_module(student, None) == f'backbone.{STAGES[name]}'


@pytest.mark.parametrize('backbone, stage', [
    (dict(type='mmdet.Darknet', depth=53), 'conv_res_block5'),
    (dict(type='mmdet.SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
     'stages.3'),
    (dict(type='mmseg.MobileNetV2', widen_factor=0.25), 'layer7'),
    (dict(type='mmseg.VisionTransformer', img_size=32, embed_dims=8, num_layers=2, num_heads=2),
     'layers.1'),
])
def test_last_stage_of_other_backbones(backbone, stage, model):
    model('seg', 'student')  # registers the packages' types
    student = nn.Module()
    student.backbone = MODELS.build(backbone)
    assert find_measured_module(student, None) == f'backbone.{stage}'


def test_student_without_backbone():
    with pytest.raises(ConfigError, match=r"^at='backbone': the student"):
        find_measured_module(nn.Module(), None)


def test_two_ranks_are_one_with_twice_the_batch(toy, train, workspace, script, monkeypatch,
                                                free_port):
    """The same images in the same order, without flips and statistics of the batch."""
    norm = dict(type='GN', num_groups=2)
    cfg = balanced(toy, 'seg', 'cwd', iters=3, share=0.5, band=0.001, interval=1, changes={
        'model.student.backbone.norm_cfg': norm, 'model.student.decode_head.norm_cfg': norm,
        'model.student.decode_head.dropout_ratio': 0, 'optim_wrapper.optimizer': dict(
            _delete_=True, type='SGD', lr=0.01), 'train_dataloader.batch_size': 2,
        'train_dataloader.sampler.shuffle': False})
    cfg.train_dataloader.dataset.pipeline.pop(2)
    cfg.work_dir = str(workspace / 'two')
    cfg.dump('config.py')
    monkeypatch.setenv('PORT', free_port)
    script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2)

    cfg.work_dir, cfg.train_dataloader.batch_size = str(workspace / 'one'), 4
    train(cfg)
    one, two = (torch.load(workspace / name / 'iter_3.pth', weights_only=False)
                for name in ('one', 'two'))
    for key in 'share', 'weight':
        found, expected = (state['message_hub']['log_scalars'][f'train/distill_balance/{key}']
                           ._log_history.tolist() for state in (two, one))
        assert len(found) == 3 and found == pytest.approx(expected, rel=1e-3)
    for name, value in one['state_dict'].items():
        torch.testing.assert_close(two['state_dict'][name], value, rtol=1e-3, atol=1e-5)

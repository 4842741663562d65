"""The hook inside real Runners, on the toy configs."""
import copy
import math
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmakd.checks.preflight import check_before_training
from mmakd.hooks import EMATeacherHook
from mmakd.utils.errors import ConfigError
from tests.integration.small_models import small_model

ROOT = Path(__file__).parents[2]
HOOK = 'default_hooks.ema_teacher.'
BOTH = dict(big=dict(cfg=str(ROOT / 'configs/seg/toy/teacher_pspnet_shapes.py'), ckpt=None),
            mean=dict(cfg='ema'))


def cloned(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


@HOOKS.register_module(force=True)
class Follow(Hook):
    """Keeps student and average of each iteration, and what the average was made of."""

    priority = 'LOWEST'

    def __init__(self):
        self.students, self.averages = [], []

    def _note(self, runner):
        self.students.append(cloned(runner.model.student))
        name = [*runner.model.teachers][-1]
        self.averages.append(cloned(runner.model.teachers[name].network))

    def before_train(self, runner):
        self._note(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._note(runner)


@pytest.fixture
def follow(toy, train):
    """Train the toy config; the hook that has followed it, and the Runner."""

    def run(task='seg', iters=4, student=None, **changes):
        cfg = toy(task, 'meanteacher', iters=iters, **changes)
        cfg.model.student = student or cfg.model.student
        cfg.custom_hooks = [dict(type='Follow')]
        runner = train(cfg)
        return next(hook for hook in runner.hooks if isinstance(hook, Follow)), runner

    return run


def expected(students, momentum):
    """The average by the formula, of float64 copies, one for each number of steps."""
    averages = [{key: value.double() for key, value in students[0].items()}]
    for t, student in enumerate(students[1:], 1):
        decay = min(1 - 1 / (t + 1), momentum)
        averages.append({key: decay * value + (1 - decay) * student[key].double()
                         for key, value in averages[-1].items()})
    return averages


def integers(key):
    return key.endswith('num_batches_tracked')


@pytest.mark.parametrize('task, momentum', [('seg', 0.999), ('seg', 0.6), ('det', 0.7)])
def test_average(task, momentum, follow):
    seen, _ = follow(task, **{f'{HOOK}momentum': momentum})
    assert len(seen.averages) == 5
    for average, right in zip(seen.averages, expected(seen.students, momentum)):
        for key, value in average.items():
            if not integers(key):
                torch.testing.assert_close(value.double(), right[key], rtol=1e-5, atol=1e-6)
    for average, student in zip(seen.averages, seen.students):
        assert all(torch.equal(average[key], student[key]) for key in average if integers(key))
    first, last = seen.averages[0], seen.averages[-1]
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    assert {'backbone.layer1.0.conv1.weight', 'backbone.layer1.0.bn1.running_var'} <= moved
    if momentum == 0.999:  # all four weigh the same: the mean of five students
        key = 'backbone.layer1.0.conv1.weight'
        torch.testing.assert_close(last[key], torch.stack([s[key] for s in seen.students]).mean(0))


def test_buffers_of_the_student(follow):
    seen, _ = follow(**{f'{HOOK}update_buffers': False})
    names = [key for key in seen.averages[0] if 'running' in key or integers(key)]
    for average, student in zip(seen.averages[1:], seen.students[1:]):
        assert all(torch.equal(average[key], student[key]) for key in names)
        assert not torch.equal(average['decode_head.conv_seg.weight'],
                               student['decode_head.conv_seg.weight'])


def test_only_steps_of_the_optimizer_count(follow):
    seen, _ = follow(iters=5, **{'optim_wrapper.accumulative_counts': 2})
    # The last iteration ends with a step in any case.
    right = expected([seen.students[i] for i in (0, 2, 4, 5)], 0.99)
    key = 'decode_head.conv_seg.weight'
    for iteration, steps in enumerate((0, 0, 1, 1, 2, 3)):
        torch.testing.assert_close(seen.averages[iteration][key].double(), right[steps][key],
                                   rtol=1e-5, atol=1e-6)
    # BatchNorm's statistics move in every iteration.
    key = 'decode_head.bottleneck.bn.running_mean'
    assert torch.equal(seen.averages[2][key], seen.averages[3][key])
    assert not torch.equal(seen.students[2][key], seen.students[3][key])


def test_shared_layers_are_averaged_once(follow):
    task = dict(_delete_=True, tap='neck', loss=dict(type='PKDLoss'))
    seen, runner = follow('det', student=small_model('rtmdet'), **{'model.distill.cls': task})
    own = runner.model.student.state_dict()
    key = 'bbox_head.cls_convs.1.0.conv.weight'
    assert own[key].data_ptr() == own[key.replace('.1.', '.0.', 1)].data_ptr()
    torch.testing.assert_close(
        seen.averages[-1][key].double(), expected(seen.students, 0.99)[-1][key],
        rtol=1e-5, atol=1e-6)


def test_starts_from_the_student(follow, toy, train):
    seen, _ = follow()
    assert all(torch.equal(value, seen.students[0][key])
               for key, value in seen.averages[0].items())
    first = train(toy('seg', 'student'))
    # Ours holds an average too, which is none of the student that it loads.
    for path in (f'{first.work_dir}/iter_4.pth', 'work/seg_meanteacher/iter_4.pth'):
        loaded = torch.load(path, weights_only=False)['state_dict']
        again, _ = follow(load_from=path)
        for key, value in again.averages[0].items():
            assert torch.equal(value, again.students[0][key])
            assert torch.equal(value, loaded[key]), key


def test_student_learns_from_the_average(follow):
    _, runner = follow(**{f'{HOOK}ramp_iters': 0})
    losses = runner.message_hub.get_scalar('train/distill.loss_logits').data[0]
    assert (losses > 0).all()
    assert 'train/distill_weight/logits' not in runner.message_hub.log_scalars


def test_ramp_of_the_tasks_of_the_average(follow):
    task = dict(tap='decode_head.conv_seg', loss=dict(type='PKDLoss'), teacher='mean')
    _, runner = follow(**{
        'model.teacher': dict(BOTH, _delete_=True), 'model.distill.logits.teacher': 'big',
        'model.distill.more': task, f'{HOOK}ramp_iters': 3})
    hub = runner.message_hub.log_scalars
    weights = [math.exp(-5 * (1 - t / 3)**2) for t in range(3)] + [1.0]
    assert hub['train/distill_weight/more'].data[0].tolist() == pytest.approx(weights)
    assert 'train/distill_weight/logits' not in hub
    assert runner.model.distiller['logits'].weight_factor == 1


def test_checkpoint_is_the_students(follow, toy, train):
    seen, runner = follow()
    state = torch.load(f'{runner.work_dir}/iter_4.pth', weights_only=False)
    assert state['ema_teacher']['steps'] == 4
    saved = state['ema_teacher']['state_dicts']['teacher']
    assert saved.keys() == state['state_dict'].keys() == seen.students[-1].keys()
    for key, value in saved.items():
        assert torch.equal(value, seen.averages[-1][key])
        assert torch.equal(state['state_dict'][key], seen.students[-1][key])
    score = runner.message_hub.get_scalar('val/mIoU').current()
    plain = toy('seg', 'student', load_from=f'{runner.work_dir}/iter_4.pth')
    assert Runner.from_cfg(plain).test()['mIoU'] == pytest.approx(score)


def test_resume_without_an_average(follow, toy, train):
    first = train(toy('seg', 'student'))
    seen, runner = follow(iters=8, load_from=f'{first.work_dir}/iter_4.pth', resume=True)
    assert all(torch.equal(value, seen.students[0][key])
               for key, value in seen.averages[0].items())
    log = Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    assert 'The checkpoint has no average for the teacher, which starts from the student' in log


def test_two_processes_have_equal_averages(workspace, script, monkeypatch, free_port):
    (workspace / 'dump_average.py').write_text(textwrap.dedent("""
        import torch
        from mmengine.dist import get_rank
        from mmengine.hooks import Hook
        from mmengine.registry import HOOKS


        @HOOKS.register_module()
        class DumpAverage(Hook):
            priority = 'LOWEST'

            def after_train(self, runner):
                model = runner.model.module
                torch.save([dict(model.teacher.state_dict()), dict(model.student.state_dict())],
                           f'rank{get_rank()}.pth')
    """))
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/seg/toy/meanteacher_pspnet_shapes.py'
        custom_imports = dict(imports=['mmakd', 'dump_average'], allow_failed_imports=False)
        custom_hooks = [dict(type='DumpAverage')]
        train_dataloader = dict(batch_size=4)
        train_cfg = dict(max_iters=3, val_interval=3)
    """))
    monkeypatch.setenv('PYTHONPATH', f'{workspace}:{ROOT}')
    monkeypatch.setenv('PORT', free_port)
    script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2)
    (first, own), (second, other) = (torch.load(f'rank{rank}.pth') for rank in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    key = 'decode_head.bottleneck.bn.running_mean'
    assert not torch.equal(own[key], other[key]) and not torch.equal(own[key], first[key])


@pytest.mark.parametrize('options, start', [
    (dict(momentum=1), 'momentum=1: must be a number >= 0 and < 1'),
    (dict(momentum='0.9'), "momentum='0.9': must be a number >= 0 and < 1"),
    (dict(ramp_iters=-1), 'ramp_iters=-1: must be an integer >= 0'),
    (dict(ramp_iters=2.5), 'ramp_iters=2.5: must be an integer >= 0'),
])
def test_bad_argument_is_named(options, start):
    with pytest.raises(ConfigError) as caught:
        EMATeacherHook(**options)
    problem, = caught.value.problems
    assert problem.startswith(start)


SCHEDULE = dict(type='DistillationScheduleHook')


@pytest.mark.parametrize('name, changes, starts', [
    ('cwd', {'default_hooks.ema_teacher': dict(type='EMATeacherHook')},
     ["EMATeacherHook: no teacher of the model is 'ema'; set model.teacher='ema'"]),
    ('student', {'default_hooks.ema_teacher': dict(type='EMATeacherHook')},
     ["EMATeacherHook: no teacher of the model is 'ema'"]),
    ('meanteacher', {'default_hooks.ema_teacher': None},
     ["model.teacher='ema': no hook updates the average; set default_hooks="]),
    ('meanteacher', {'default_hooks.schedule': SCHEDULE},
     ['EMATeacherHook.ramp_iters=300: a DistillationScheduleHook sets the weight of the task '
      "'logits' too"]),
    ('meanteacher', {'default_hooks.schedule': SCHEDULE, f'{HOOK}ramp_iters': 0}, []),
    ('meanteacher', {'default_hooks.more': dict(type='EMATeacherHook')},
     ['EMATeacherHook: the config has 2 such hooks']),
    ('meanteacher', {'default_hooks.eval': dict(type='TeacherEvalHook')},
     ['TeacherEvalHook.teachers=None: the teacher is the average of the student']),
    ('meanteacher', {'model.teacher_ckpt': 'x.pth'},
     ["model.teacher_ckpt='x.pth': the teacher 'ema' is the average of the student and has no"]),
    ('meanteacher', {'model.teacher': dict(_delete_=True, mean=dict(cfg='ema', ckpt=None)),
                     'default_hooks.ema_teacher': None},
     ["model.teacher.mean.ckpt=None: the teacher 'ema' is the average"]),
    ('meanteacher', {'model.inherit': ['backbone']},
     ["model.inherit=['backbone']: the teacher 'ema' starts from the student itself"]),
    ('meanteacher', {'model.student.type': 'EncoderDecodr'}, ['model.student.type=']),
])
def test_wrong_config_is_named_before_training(name, changes, starts, toy):
    cfg = copy.deepcopy(toy('seg', name, **changes))
    problems = []
    try:
        check_before_training(cfg)
    except ConfigError as error:
        problems = error.problems
    assert len(problems) == len(starts), problems
    for problem, start in zip(problems, starts):
        assert problem.startswith(start)


def test_scores_of_the_other_teacher(follow):
    _, runner = follow(**{
        'model.teacher': dict(BOTH, _delete_=True), 'model.distill.logits.teacher': 'mean',
        'model.distill.more': dict(tap='decode_head.conv_seg', loss=dict(type='PKDLoss'),
                                   teacher='big'),
        'default_hooks.teacher_eval': dict(type='TeacherEvalHook', teachers=['big'],
                                           cache_dir='cache')})
    assert 'val/teacher.big/mIoU' in runner.message_hub.log_scalars

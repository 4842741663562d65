"""The hook inside real Runners, on the toy config."""
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmakd.hooks import TeacherCheckpointHook
from mmakd.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
HOOK = 'default_hooks.teacher_checkpoint'
WEIGHT = 'decode_head.conv_seg.bias'
NAMES = [f'work_dirs/teacher_pspnet_shapes/iter_{i}.pth' for i in (275, 550, 825, 1100)]


@pytest.fixture
def checkpoints(model):
    """The four checkpoints that the toy config names; in the n-th the bias is n."""
    state = model('seg', 'teacher').state_dict()
    Path(NAMES[0]).parent.mkdir(parents=True)
    for number, name in enumerate(NAMES, 1):
        torch.save({**state, WEIGHT: torch.full_like(state[WEIGHT], number)}, name)


def run(cfg):
    """Train; the Runner, and which checkpoint the teacher had in each iteration, 0 for none."""
    runner = Runner.from_cfg(cfg)
    used = {}
    network = runner.model.teacher
    network.decode_head.conv_seg.register_forward_pre_hook(lambda *_: used.update(
        {runner.iter: network.state_dict()[WEIGHT][0].item()}))
    runner.train()
    return runner, [round(used[i]) for i in sorted(used)]


@pytest.fixture
def online(toy, checkpoints):

    def load(iters=8, at='progress', **changes):
        cfg = toy('seg', 'online', iters=iters, **{
            f'{HOOK}.at': at, 'default_hooks.checkpoint.interval': 1,
            'default_hooks.checkpoint.max_keep_ckpts': -1, **changes})
        del cfg.default_hooks['supervision_complexity']  # it runs the teacher too
        return cfg

    return load


@pytest.mark.parametrize('iters, at, expected', [
    (8, 'progress', [1, 1, 2, 2, 3, 3, 4, 4]),
    (6, 'progress', [1, 2, 2, 3, 4, 4]),
    (3, 'progress', [1, 2, 3]),
    (7, [1, 2, 3, 6], [0, 1, 2, 3, 3, 3, 4]),
])
def test_swaps(online, iters, at, expected):
    _, used = run(online(iters, at))
    # Without progress for four, the last of those that begin together.
    assert used == expected if iters > 3 else used[-1] == 4 and used == sorted(used)


def test_resumed_training_has_the_right_one(online):
    first, used = run(online(8, [0, 3, 5, 6]))
    assert used == [1, 1, 1, 2, 2, 3, 4, 4]
    resumed, again = run(online(8, [0, 3, 5, 6], resume=True, work_dir='resumed',
                                load_from=f'{first.work_dir}/iter_4.pth'))
    assert again == used[4:]
    assert resumed.iter == 8


def test_two_processes(checkpoints, workspace, script, monkeypatch, free_port):
    """They swap alike, and the first measures the complexity alone."""
    (workspace / 'dump_bias.py').write_text(textwrap.dedent("""
        from mmengine.dist import get_rank
        from mmengine.hooks import Hook
        from mmengine.registry import HOOKS


        @HOOKS.register_module()
        class DumpBias(Hook):

            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                bias = runner.model.module.teacher.decode_head.conv_seg.bias
                with open(f'rank{get_rank()}.txt', 'a') as file:
                    file.write(f'{bias[0].item():.0f} ')
    """))
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/seg/toy/online_pspnet_shapes.py'
        custom_imports = dict(imports=['mmakd', 'dump_bias'], allow_failed_imports=False)
        custom_hooks = [dict(type='DumpBias')]
        train_dataloader = dict(batch_size=4)
        train_cfg = dict(max_iters=4, val_interval=4)
        default_hooks = dict(supervision_complexity=dict(interval=2))
    """))
    monkeypatch.setenv('PYTHONPATH', f'{workspace}:{ROOT}')
    monkeypatch.setenv('PORT', free_port)
    script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2)
    assert [Path(f'rank{rank}.txt').read_text() for rank in range(2)] == ['1 2 3 4 '] * 2


def test_all_checkpoints_are_verified_before_the_first_batch(online, model):
    torch.save(model('seg', 'student').state_dict(), NAMES[1])
    Path(NAMES[2]).unlink()
    Path(NAMES[3]).write_bytes(b'')
    runner = Runner.from_cfg(online())
    with pytest.raises(ConfigError) as caught:
        runner.train()
    first, second, third = caught.value.problems
    assert first.startswith(f"TeacherCheckpointHook.checkpoints[1]='{NAMES[1]}': does not fit the "
                            'teacher (EncoderDecoder): ')
    assert first.endswith('or set teacher_strict=False to load what fits')
    assert second.startswith(f"TeacherCheckpointHook.checkpoints[2]='{NAMES[2]}': no such file")
    assert third.startswith(f"TeacherCheckpointHook.checkpoints[3]='{NAMES[3]}': not a readable")
    assert runner.iter == 0 and 'train/loss' not in runner.message_hub.log_scalars


@pytest.mark.parametrize('options, start', [
    (dict(checkpoints=[]), 'checkpoints=[]: must be a list of paths or URLs'),
    (dict(checkpoints='a.pth'), "checkpoints='a.pth': must be a list"),
    (dict(checkpoints=['a.pth', None]), "checkpoints=['a.pth', None]: must be a list"),
    (dict(checkpoints=['a.pth', 'b.pth'], at=[0]), "at=[0]: must be 'progress' or 2 ascending"),
    (dict(checkpoints=['a.pth', 'b.pth'], at=[5, 5]), "at=[5, 5]: must be 'progress' or 2 asc"),
    (dict(checkpoints=['a.pth'], at=[-1]), "at=[-1]: must be 'progress' or 1 ascending"),
    (dict(checkpoints=['a.pth'], at='progres'), "at='progres': must be 'progress'"),
])
def test_bad_argument_is_named(options, start):
    with pytest.raises(ConfigError) as caught:
        TeacherCheckpointHook(**options)
    problem, = caught.value.problems
    assert problem.startswith(start)


@pytest.mark.parametrize('changes, start', [
    ({f'{HOOK}.teacher': 'big'}, ".teacher='big': no such teacher; valid: 'teacher'"),
    ({f'{HOOK}.at': [0, 1, 2, 8]}, '.at=[0, 1, 2, 8]: the training ends after 8 iterations'),
    ({'default_hooks.more': dict(type='TeacherCheckpointHook', checkpoints=['a.pth'])},
     '.teacher=None: 2 such hooks swap its weights'),
    ({'model.teacher': 'ema', 'default_hooks.ema_teacher': dict(type='EMATeacherHook')},
     ".teacher=None: it is 'ema', the average of the student, which has no checkpoints"),
])
def test_misfit_of_hook_and_training(online, changes, start):
    cfg = online(**changes)
    if cfg.model.teacher == 'ema':
        cfg.model.teacher_ckpt = 'auto'
    with pytest.raises(ConfigError) as caught:
        Runner.from_cfg(cfg).train()
    problem, = caught.value.problems
    assert problem.startswith(f'TeacherCheckpointHook{start}')


def test_model_without_a_teacher(toy):
    cfg = toy('seg', 'student')
    cfg.default_hooks.more = dict(type='TeacherCheckpointHook', checkpoints=['a.pth'])
    with pytest.raises(ConfigError, match=r'^TeacherCheckpointHook: the model has no teacher'):
        Runner.from_cfg(cfg).train()

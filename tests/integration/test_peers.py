"""Several students in real trainings: validation, checkpoints, export, hooks, ranks, resume."""
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

import export_student
from mmakd.utils.cli import build_runner
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model
from mmakd.utils.state_dict import OWN_KEYS

from .comparison import averages, logged, optimizer_state, same
from .states import same as differences

ROOT = Path(__file__).parents[2]
EMA = dict(type='EMAHook', momentum=0.1)


@pytest.fixture
def score(toy):
    """Test a checkpoint by the plain config of a student of the toy config."""

    def run(name, checkpoint):
        cfg = toy('seg', 'student', load_from=str(checkpoint))
        cfg.model = resolve_model(toy('seg', 'peers').model.students[name])
        return Runner.from_cfg(cfg).test()

    return run


def last(runner, key):
    return runner.message_hub.get_scalar(key).current()


def test_each_student_is_validated_and_exported(toy, train, score):
    cfg = toy('seg', 'peers', **{'default_hooks.checkpoint.save_best': 'slim/mIoU'})
    cfg.custom_hooks = [EMA]
    runner = train(cfg)
    saved = f'{cfg.work_dir}/iter_4.pth'
    best, = Path(cfg.work_dir).glob('best_*')
    assert best.name == 'best_slim_mIoU_iter_4.pth'
    # The weights are those of EMA.
    psp, slim = (last(runner, f'val/{name}/mIoU') for name in ('psp', 'slim'))
    assert psp != slim and last(runner, 'val/mIoU') == psp
    assert score('psp', saved)['mIoU'] == psp

    for name, expected in ('slim', slim), ('psp', psp):
        export_student.main([str(best), name, f'out/{name}.pth'])
        scores = score(name, f'out/{name}.pth')
        assert scores['mIoU'] == expected and 'psp/mIoU' not in scores
        exported = torch.load(f'out/{name}.pth', weights_only=False)
        source = torch.load(best, weights_only=False)
        assert set(exported) == {'meta', 'state_dict'}
        assert exported['meta']['dataset_meta'] == source['meta']['dataset_meta']
        assert set(source['meta']) - set(exported['meta']) == {'cfg'}
        assert not any(key.startswith(OWN_KEYS) for key in exported['state_dict'])

    tested = Runner.from_cfg(toy('seg', 'peers', load_from=saved)).test()
    assert {name: tested[name] for name in ('mIoU', 'psp/mIoU', 'slim/mIoU')} == {
        'mIoU': psp, 'psp/mIoU': psp, 'slim/mIoU': slim}


def test_weight_zero_leaves_the_first_student_as_plain_training(toy, train):
    runs = []
    for name in 'student', 'peers':
        cfg = toy('seg', name, **{'train_cfg.val_interval': 2})
        cfg.custom_hooks = [EMA]
        if name == 'peers':
            for tasks in (*cfg.model.distill.values(), cfg.model.peer):
                tasks.logits.loss.loss_weight = 0
        runs.append(train(cfg))
    plain, peers = runs
    for parts in (lambda runner: runner.model.state_dict(), averages, optimizer_state):
        expected, found = parts(plain), parts(peers)
        assert {key for key in found if not key.startswith(OWN_KEYS)} == set(expected)
        assert all(same(value, found[key]) for key, value in expected.items())
    key = 'train/decode.loss_ce'
    assert logged(peers)[key] == logged(plain)[key] and len(set(logged(plain)[key])) == 4
    assert logged(peers)['train/distill.loss_psp_from_slim_logits'] == [0.0] * 4


def test_both_students_learn_from_each_other(toy, train):
    ends = []
    for weight in 0, 1:
        cfg = toy('seg', 'peers', **{'model.peer.logits.loss.loss_weight': weight})
        ends.append(train(cfg).model.state_dict())
    for key in 'backbone.stem.0.weight', 'peers.slim.backbone.stem.0.weight':
        assert not torch.equal(ends[0][key], ends[1][key])


def test_hooks(toy, train):
    cfg = toy('seg', 'peers')
    cfg.model.peer.logits.loss = dict(
        type='UncertaintyFeatureLoss', criterion=dict(type='KLDivergence'),
        perturbation=dict(type='DropoutPerturbation'), uncertainty=dict(type='AvatarVariance'))
    cfg.default_hooks.update(
        perturbation=dict(type='PerturbationHook'),
        schedule=dict(type='DistillationScheduleHook', tasks=['slim_logits'], stop=2),
        balance=dict(type='DistillationBalanceHook', interval=1, share=0.5),
        teacher=dict(type='TeacherEvalHook', cache_dir='cache'))
    runner = train(cfg)
    log = logged(runner)
    assert log['train/distill_weight/slim_logits'] == [1, 1, 0, 0]
    losses = log['train/distill.loss_slim_logits']
    assert all(losses[:2]) and losses[2:] == [0, 0]
    for task in 'psp_from_slim_logits', 'slim_from_psp_logits':
        assert len(set(log[f'train/sigma/{task}.0'])) == 4
    shares = log['train/distill_balance/share']
    assert len(shares) == 4 and all(0 < share < 1 for share in shares)
    assert runner.model.distiller['slim_logits'].balance_factor == (
        log['train/distill_balance/weight'][-1]) != 1
    assert last(runner, 'val/teacher/mIoU') > 0

    cfg.default_hooks.balance.tasks = ['slim_logits', 'slim_from_psp_logits']
    cfg.experiment_name += '_'
    with pytest.raises(ConfigError, match=(
            r'^DistillationBalanceHook\.tasks=.*: the first student, students\.psp, whose')):
        train(cfg)


@pytest.fixture
def resumable(toy, workspace):
    """A training whose teacher is the same each time: ``resumable(load_from=...)``."""
    torch.save(Runner.from_cfg(toy('seg', 'teacher')).model.state_dict(), 'teacher.pth')

    def load(**changes):
        cfg = toy('seg', 'peers', **{
            'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            'model.teacher_ckpt': str(workspace / 'teacher.pth'), **changes})
        cfg.default_hooks.exact_resume = dict(type='ExactResumeHook')
        cfg.custom_hooks = [EMA]
        return cfg

    return load


def test_a_resumed_training_ends_the_same(resumable, train):
    cfg = resumable()
    train(cfg)
    train(resumable(work_dir='resumed', resume=True, load_from=f'{cfg.work_dir}/iter_2.pth'))
    start, whole, end = (torch.load(path, weights_only=False) for path in (
        f'{cfg.work_dir}/iter_2.pth', f'{cfg.work_dir}/iter_4.pth', 'resumed/iter_4.pth'))
    for part in 'state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers':
        assert not differences(whole[part], end[part]), part
        assert part == 'param_schedulers' or differences(start[part], end[part])


def test_two_processes(resumable, script, monkeypatch, free_port):
    resumable().dump('config.py')
    monkeypatch.setenv('PORT', free_port)
    done = script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, '--work-dir', 'work')
    assert all(f'{name}/mIoU' in done.stdout for name in ('psp', 'slim'))
    start, end = (torch.load(f'work/iter_{number}.pth', weights_only=False)['state_dict']
                  for number in (2, 4))
    assert set(differences(start, end)) == {f'.{key}' for key in end}


def test_detectors(toy, train):
    cfg = toy('det', 'akd-cwd')
    student = cfg.model.student
    student.test_cfg.score_thr = 0.0
    model = dict(
        type='PeerDistiller', students=dict(a=student, b=dict(
            student, backbone=dict(student.backbone, depth=34))),
        teacher=cfg.model.teacher, teacher_ckpt=None, distill=dict(
            a=dict(fpn=dict(tap='neck', loss=dict(type='ChannelWiseDivergence')))),
        peer=dict(cls=dict(tap='bbox_head.retina_cls')))
    cfg.model = model
    cfg.val_evaluator = dict(type='PeerEvaluator', metrics=[cfg.val_evaluator])
    runner = train(cfg)
    for name in 'a/', 'b/', '':
        assert last(runner, f'val/{name}coco/bbox_mAP_50') >= 0
    assert {key.split('/')[1] for key in runner.message_hub.log_scalars
            if key.startswith('val/') and 'time' not in key} == {'a', 'b', 'coco'}


@pytest.mark.parametrize('checkpoint', ['peers', 'plain'])
def test_a_checkpoint_must_hold_these_students_or_only_the_first(checkpoint, saved, toy):
    cfg = toy('seg', 'peers', load_from=f'{checkpoint}.pth')
    build_runner(cfg)
    cfg.model.students.lean = cfg.model.students.pop('slim')
    cfg.model.distill.lean = cfg.model.distill.pop('slim')
    cfg.experiment_name += '_'
    if checkpoint == 'plain':
        build_runner(cfg)
    else:
        with pytest.raises(ConfigError, match=(
                r'^load_from=.*: does not fit the model: .* keys missing: peers\.lean\.')):
            build_runner(cfg)


@pytest.fixture
def saved(toy, model, workspace):
    cfg = toy('seg', 'peers')
    torch.save(dict(meta=dict(cfg=cfg.pretty_text),
                    state_dict=model('seg', 'peers').state_dict()), 'peers.pth')
    torch.save(dict(meta={}, state_dict=model('seg', 'student').state_dict()), 'plain.pth')
    return workspace


@pytest.mark.parametrize('arguments, problem', [
    (('peers.pth', 'slin', 'out.pth'), r"NAME='slin': no such student; did you mean 'slim'\?"),
    (('peers.pth', 'a', 'out.pth'), r"NAME='a': no such student; valid: 'psp', 'slim'"),
    (('plain.pth', 'slim', 'out.pth'), r"CKPT='plain\.pth': holds no students beside one; name"),
    (('none.pth', 'slim', 'out.pth'), r"CKPT='none\.pth': no such file"),
    (('peers.pth', 'slim', './peers.pth'), r"OUT='\./peers\.pth': is the checkpoint itself"),
    (('peers.pth', 'slim', 'plain.pth/x.pth'), r"OUT='plain\.pth/x\.pth': cannot be written")])
def test_export_refuses(arguments, problem, saved):
    before = (saved / 'peers.pth').read_bytes()
    with pytest.raises(ConfigError, match=f'^{problem}'):
        export_student.main(arguments)
    assert not (saved / 'out.pth').exists()
    assert (saved / 'peers.pth').read_bytes() == before


def test_export_from_the_command_line(saved, script):
    failed = script(sys.executable, ROOT / 'tools/export_student.py', 'peers.pth', 'x', 'out.pth',
                    check=False)
    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1] == (
        "error: NAME='x': no such student; valid: 'psp', 'slim'")

"""The hook inside real Runners, on the toy configs and with a detector that knows the truth."""
import json
import os
import socket
import textwrap
from pathlib import Path

import pytest
import torch
from mmdet.models import RetinaNet
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner, save_checkpoint
from mmengine.structures import InstanceData
from torch import nn

from mmakd.hooks import TeacherEvalHook
from mmakd.hooks.teacher_eval_hook import digest, load_scores, save_scores
from mmakd.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
KEY = 'TeacherEvalHook'
EVAL = {'default_hooks.teacher_eval': dict(type='TeacherEvalHook', cache_dir='cache')}
CHECKPOINT = {'det': 'epoch_1.pth', 'seg': 'iter_4.pth'}


@MODELS.register_module(force=True)
class Oracle(RetinaNet):
    """Predicts the ground truth, its labels moved on by ``shift``."""

    def __init__(self, *args, shift=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.shift = shift

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        for sample in batch_data_samples:
            truth = sample.gt_instances
            # The pipeline loads it behind Resize, so it is on the image's own scale.
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes, labels=truth.labels + self.shift,
                scores=torch.ones(len(truth)))
        return batch_data_samples


@HOOKS.register_module(force=True)
class KeepMetrics(Hook):
    """Keeps the metrics that hooks are given."""

    def __init__(self):
        self.names = []

    def after_val_epoch(self, runner, metrics=None):
        self.names.append(list(metrics))


@pytest.fixture
def evaluations(monkeypatch):
    """The teacher's batches, as they are evaluated."""
    batches, val_step = [], BaseModel.val_step

    def counted(self, data):
        if type(self).__name__ != 'AvatarDistiller':
            batches.append(self)
        return val_step(self, data)

    monkeypatch.setattr(BaseModel, 'val_step', counted)
    return batches


@pytest.fixture
def teacher_checkpoint(model, tmp_path):
    """A segmentor's checkpoint."""
    teacher = model('seg', 'teacher')
    save_checkpoint(dict(state_dict=teacher.state_dict()), str(tmp_path / 'teacher.pth'))
    return tmp_path / 'teacher.pth'


@pytest.fixture
def short(toy):
    """Load a toy config of one iteration: ``short('seg')``."""

    def load(task, name='akd-cwd', **changes):
        loop = dict(max_epochs=1) if task == 'det' else dict(max_iters=1, val_interval=1)
        cfg = toy(task, name, train_cfg=loop)
        cfg.merge_from_dict(changes)
        if task == 'seg':
            cfg.default_hooks.checkpoint.interval = 1
        return cfg

    return load


def oracle(cfg, **options):
    cfg.merge_from_dict(EVAL)
    cfg.model.teacher = dict(cfg=cfg.model.teacher, type='Oracle', **options)
    return cfg


def logged_scores(runner):
    return {name.removeprefix('val/teacher/'): buffer.data[0].tolist()
            for name, buffer in runner.message_hub.log_scalars.items()
            if name.startswith('val/teacher/')}


def log_text(runner):
    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


OTHER = dict(mean=[10., 200., 30.], std=[200., 30., 4.], bgr_to_rgb=False)


def test_score_is_that_of_evaluating_the_plain_teacher(short, train, teacher_checkpoint):
    scores = []
    for preprocessor in ({}, OTHER):
        changes = {f'model.data_preprocessor.{key}': value for key, value in preprocessor.items()}
        alone = short('seg', 'teacher', load_from=str(teacher_checkpoint), **changes)
        expected = Runner.from_cfg(alone).val()

        cfg = short('seg', **EVAL)
        cfg.model.teacher_ckpt = str(teacher_checkpoint)
        cfg.model.teacher = dict(cfg=cfg.model.teacher, data_preprocessor=preprocessor)
        scores.append(logged_scores(train(cfg)))
        assert scores[-1] == {name: [value] for name, value in expected.items()}
    assert scores[0] != scores[1] and 0 < scores[0]['mIoU'][0] < 100


def test_images_follow_the_teacher_to_its_device(short):
    cfg = short('seg', **EVAL)
    runner = Runner.from_cfg(cfg)
    # As on a GPU, where the model's own ``to`` does not reach it.
    runner.model.teacher.data_preprocessor._device = torch.device('meta')
    runner.train()
    assert logged_scores(runner)['mIoU'][0] > 0


def test_detector(short, train):
    runner = train(oracle(short('det')))
    assert logged_scores(runner)['coco/bbox_mAP'] == [1.0]
    assert 'WARNING - The teacher' not in log_text(runner)


def test_wrong_order_of_classes_is_warned_of_at_once(short):
    runner = Runner.from_cfg(oracle(short('det'), shift=-1))
    text = []
    runner.register_hook(AtFirstIteration(lambda: text.append(log_text(runner))), 'LOWEST')
    runner.train()
    warning, = (line for line in text[0].splitlines() if 'WARNING - The teacher' in line)
    assert 'scores next to nothing (coco/bbox_mAP: 0.0000)' in warning
    assert 'class list' in warning and 'data_preprocessor' in warning


def test_teacher_that_finds_nothing(short, train):
    for source in ('', ' (cached)'):
        cfg = short('det', **EVAL)
        cfg.model.teacher = dict(cfg=cfg.model.teacher, test_cfg=dict(score_thr=0.99))
        runner = train(cfg)
        assert not logged_scores(runner)
        assert f"The teacher's score{source}: none" in log_text(runner)
        assert 'The teacher has no score' in log_text(runner)


class AtFirstIteration(Hook):

    def __init__(self, do):
        self.do = do

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.do()


def test_unknown_classes_stop_the_training(short):
    runner = Runner.from_cfg(oracle(short('det'), shift=100))
    with pytest.raises(ConfigError, match=rf'{KEY}: the teacher cannot be .*IndexError.*class li'):
        runner.train()
    assert runner.iter == 0


def test_logged_beside_the_student_and_not_given_to_other_hooks(toy, train):
    cfg = toy('seg', 'akd-cwd', custom_hooks=[dict(type='KeepMetrics')], **EVAL)
    cfg.train_cfg.val_interval = 2
    cfg.default_hooks.checkpoint.update(save_best='auto', rule='greater')
    runner = train(cfg)
    score, again = logged_scores(runner)['mIoU']
    assert score == again
    lines = [line for line in log_text(runner).splitlines() if ' teacher/mIoU: ' in line]
    assert len(lines) == 2
    assert all(f'teacher/mIoU: {score:.4f}' in line and ' mIoU: ' in line for line in lines)
    log, = Path(cfg.work_dir).glob('*/vis_data/scalars.json')
    validations = [entry for entry in map(json.loads, log.read_text().splitlines())
                   if 'mIoU' in entry]
    assert len(validations) == 2
    assert all(entry['teacher/mIoU'] == pytest.approx(score) for entry in validations)

    keeper, = (hook for hook in runner.hooks if isinstance(hook, KeepMetrics))
    assert keeper.names == [['aAcc', 'mIoU', 'mAcc']] * 2
    assert list(Path(cfg.work_dir).glob('best_aAcc_iter_*.pth'))


def test_second_run_reads_the_score(short, train, evaluations, teacher_checkpoint):
    def run(**changes):
        del evaluations[:]
        runner = train(short('seg', **EVAL, **{
            'model.teacher_ckpt': str(teacher_checkpoint), **changes}))
        return logged_scores(runner), len(evaluations)

    first, batches = run()
    assert batches > 0
    assert run() == (first, 0)
    file, = Path('cache').iterdir()
    assert json.loads(file.read_text()) == dict(
        teacher_ckpt=str(teacher_checkpoint), scores={key: value for key, (value, )
                                                      in first.items()})

    renamed = teacher_checkpoint.rename('other_name.pth')
    assert run(**{'model.teacher_ckpt': str(renamed)}) == (first, 0)

    assert run(**{'model.teacher_ckpt': str(renamed), 'resume': True,
                  'train_cfg.max_iters': 2}) == (first, 0)

    other = torch.load(renamed)
    other['state_dict']['decode_head.conv_seg.bias'][3] += 1
    torch.save(other, 'other.pth')
    assert run(**{'model.teacher_ckpt': 'other.pth'})[1] > 0


def test_what_changes_the_score_is_evaluated_anew(short, train, evaluations):
    def run(**changes):
        del evaluations[:]
        cfg = short('seg', **EVAL)
        teacher = changes.pop('teacher', None)
        if teacher:
            cfg.model.teacher = dict(cfg=cfg.model.teacher, **teacher)
        cfg.merge_from_dict(changes)
        train(cfg)
        return bool(evaluations)

    assert run() and not run()
    assert run(**{'val_evaluator.iou_metrics': ['mIoU', 'mDice']})
    assert run(**{'val_dataloader.dataset.indices': 5})
    assert run(**{'val_dataloader.dataset.data_prefix': dict(
        img_path='leftImg8bit/train', seg_map_path='gtFine/train')})
    assert run(teacher=dict(
        test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(64, 64))))
    assert not run()


def test_several_teachers_are_each_scored_and_cached(short, train, evaluations):
    def run(**changes):
        del evaluations[:]
        cfg = short('seg', **EVAL)
        del cfg.model['teacher_ckpt']
        cfg.model.teacher = {name: dict(cfg=dict(cfg=cfg.model.teacher), ckpt=f'{name}.pth')
                             for name in ('big', 'other')}
        cfg.model.distill.logits.teacher = 'big'
        cfg.model.distill.more = dict(cfg.model.distill.logits, teacher='other')
        cfg.merge_from_dict(changes)
        runner = train(cfg)
        scores = {name: {metric.split('/')[-1]: buffer.data[0].tolist() for metric, buffer in
                         runner.message_hub.log_scalars.items()
                         if metric.startswith(f'val/teacher.{name}/')}
                  for name in ('big', 'other')}
        of = [name for name, teacher in runner.model.teachers.items()
              if any(network is teacher.network for network in evaluations)]
        return scores, of, log_text(runner)

    expected = {}
    for seed, name in enumerate(('big', 'other')):
        alone = short('seg', 'teacher', randomness=dict(seed=seed))
        runner = Runner.from_cfg(alone)
        save_checkpoint(dict(state_dict=runner.model.state_dict()), f'{name}.pth')
        expected[name] = {key: [value] for key, value in runner.val().items()}
    assert expected['big'] != expected['other']

    scores, of, text = run()
    assert scores == expected and of == ['big', 'other']
    assert "The teacher.big's score: aAcc: " in text and "The teacher.other's score: aAcc" in text
    assert run()[:2] == (expected, [])
    slide = dict(mode='slide', crop_size=(64, 64), stride=(64, 64))
    assert run(**{'model.teacher.other.cfg.test_cfg': slide})[1] == ['other']
    scores, of, _ = run(**{'default_hooks.teacher_eval.teachers': ['other']})
    assert (scores, of) == (dict(expected, big={}), [])
    with pytest.raises(ConfigError, match=(
            rf"{KEY}\.teachers=\['bgi'\]: must be None or a list of names .*'big', 'other'")):
        run(**{'default_hooks.teacher_eval.teachers': ['bgi']})


def test_damaged_file_is_written_anew(short, train, evaluations):
    scores = logged_scores(train(short('seg', **EVAL)))
    file, = Path('cache').iterdir()
    good = file.read_text()
    file.write_text(good[:-9])
    del evaluations[:]
    runner = train(short('seg', **EVAL))
    assert logged_scores(runner) == scores and evaluations
    assert f'{file} is damaged' in log_text(runner)
    assert file.read_text() == good and os.listdir('cache') == [file.name]


def test_folder_that_cannot_be_written_does_not_stop_the_training(short, train):
    Path('cache').write_text('a file')
    runner = train(short('seg', **EVAL))
    assert logged_scores(runner) and 'The scores are not kept' in log_text(runner)
    assert Path('cache').read_text() == 'a file'


def test_default_folder_is_beside_torch_hubs_checkpoints(short, train, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    train(short('seg', **{'default_hooks.teacher_eval': dict(type='TeacherEvalHook')}))
    assert len(list((tmp_path / 'torch/hub/mmakd/teacher_scores').glob('*.json'))) == 1


@pytest.mark.parametrize('task, workers', [('det', 0), ('seg', 0), ('seg', 1)])
def test_student_is_the_same_with_and_without(task, workers, toy, train):
    changes = {'val_dataloader.num_workers': workers,
               'val_dataloader.persistent_workers': workers > 0}
    if task == 'seg':
        changes['train_cfg.val_interval'] = 2
    ema = dict(type='EMAHook', momentum=0.1)
    saved = []
    for more in (EVAL, {}):
        cfg = toy(task, 'akd-cwd', custom_hooks=[ema], **more, **changes)
        runner = train(cfg)
        saved.append(torch.load(f'{cfg.work_dir}/{CHECKPOINT[task]}', weights_only=False))
        saved[-1]['validation'] = [
            runner.message_hub.get_scalar(key).data[0].tolist()
            for key in ('val/coco/bbox_mAP', 'val/mIoU') if key in runner.message_hub.log_scalars]
    with_hook, without = saved
    assert with_hook['validation'] == without['validation']
    for part in ('state_dict', 'ema_state_dict'):
        assert with_hook[part].keys() == without[part].keys()
        for key, value in without[part].items():
            assert torch.equal(with_hook[part][key], value), key


@pytest.mark.parametrize('scores, warns', [
    (dict(mIoU=50.0), True), (dict(mIoU=60.0), False), (dict(mIoU=float('nan')), True),
    (dict(aAcc=10.0), False)])
def test_teacher_no_better_than_the_students_first_validation(scores, warns, toy, monkeypatch):
    cfg = toy('seg', 'akd-cwd', **EVAL)
    cfg.train_cfg.val_interval = 2
    monkeypatch.setattr('mmakd.hooks.teacher_eval_hook.load_scores', lambda *args: scores)
    runner = Runner.from_cfg(cfg)
    student = iter([50.0, 90.0])
    monkeypatch.setattr('mmengine.evaluator.Evaluator.evaluate',
                        lambda *args: dict(mIoU=next(student)))
    runner.train()
    warnings = [line for line in log_text(runner).splitlines() if 'no better than' in line]
    assert len(warnings) == warns
    assert all('first validation (50.0000)' in line for line in warnings)


def test_resumed_run_does_not_compare_again(toy, train, monkeypatch):
    cfg = toy('seg', 'akd-cwd', **EVAL)
    cfg.train_cfg.val_interval = 2
    cfg.default_hooks.checkpoint.interval = 3
    monkeypatch.setattr('mmakd.hooks.teacher_eval_hook.load_scores', lambda *args: dict(mIoU=-1.0))
    first = train(cfg)
    # Two runs that start in one second would share a log in one folder.
    resumed = toy('seg', 'akd-cwd', **EVAL, resume=True, work_dir='work/resumed',
                  load_from=f'{cfg.work_dir}/iter_3.pth')
    second = train(resumed)
    assert 'no better than the student' in log_text(first)
    assert 'no better than the student' not in log_text(second)
    assert 'scores next to nothing' in log_text(second)


def test_plain_student(short):
    runner = Runner.from_cfg(short('seg', 'student', **EVAL))
    with pytest.raises(ConfigError, match=f'{KEY}: the model has no teacher'):
        runner.train()


def test_training_without_validation(short):
    cfg = short('seg', **EVAL)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        cfg.pop(key)
    with pytest.raises(ConfigError, match=f'{KEY}: the config has no validation'):
        Runner.from_cfg(cfg).train()


def test_bad_cache_dir():
    with pytest.raises(ConfigError, match=r'^cache_dir=3: must be None or the path'):
        TeacherEvalHook(cache_dir=3)


# Each rank writes the scores that it logs.
DUMP = """
    import json
    from mmengine.dist import get_rank
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS


    @HOOKS.register_module()
    class DumpScores(Hook):
        priority = 'LOWEST'

        def after_val_epoch(self, runner, metrics=None):
            scores = {name: buffer.current() for name, buffer in
                      runner.message_hub.log_scalars.items() if name.startswith('val/teacher/')}
            with open(f'rank{get_rank()}.json', 'w') as file:
                json.dump(scores, file)
"""


def test_two_processes(short, train, workspace, script, monkeypatch, teacher_checkpoint,
                       evaluations):
    (workspace / 'dump_scores.py').write_text(textwrap.dedent(DUMP))
    (workspace / 'config.py').write_text(textwrap.dedent(f"""
        _base_ = '{ROOT}/configs/seg/toy/akd-cwd_pspnet_shapes.py'
        custom_imports = dict(imports=['mmakd', 'dump_scores'], allow_failed_imports=False)
        model = dict(teacher_ckpt='{teacher_checkpoint}')
        custom_hooks = [dict(type='DumpScores')]
        default_hooks = dict(teacher_eval=dict(type='TeacherEvalHook', cache_dir='cache'))
        train_dataloader = dict(batch_size=8)
        train_cfg = dict(max_iters=1, val_interval=1)
    """))
    monkeypatch.setenv('PYTHONPATH', str(workspace))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('PORT', str(free.getsockname()[1]))
    script('bash', ROOT / 'tools/dist_train.sh', 'config.py', 2)
    first, second = (json.loads(Path(f'rank{rank}.json').read_text()) for rank in range(2))
    assert first == second

    def alone(folder):
        cfg = short('seg', **EVAL, **{'default_hooks.teacher_eval.cache_dir': folder})
        cfg.model.teacher_ckpt = str(teacher_checkpoint)
        return {f'val/teacher/{key}': value for key, (value, ) in
                logged_scores(train(cfg)).items()}

    assert alone('cache') == first and not evaluations
    assert alone('other') == first and evaluations


def test_what_is_kept_is_read(tmp_path):
    first, second = tmp_path / 'new' / 'folder' / 'a.json', tmp_path / 'new' / 'folder' / 'b.json'
    assert load_scores(first) is None
    scores = dict(mIoU=12.5, aAcc=float('inf'))
    save_scores(first, scores, teacher='x.pth')
    save_scores(second, {})
    assert load_scores(first) == scores and load_scores(second) == {}
    save_scores(first, dict(mIoU=1.0))
    assert load_scores(first) == dict(mIoU=1.0)
    assert sorted(os.listdir(first.parent)) == ['a.json', 'b.json']


@pytest.mark.parametrize('content', [
    b'', b'{"scores": {"mIoU"', b'null', b'[]', b'{}', b'{"scores": [1]}', b'\xff\xfe',
    b'{"scores": {"mIoU": "high"}}', b'{"scores": {"mIoU": null}}'])
def test_damaged_file_counts_as_none(content, tmp_path):
    (tmp_path / 'a.json').write_bytes(content)
    assert load_scores(tmp_path / 'a.json') is None


class Network(nn.Module):

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.register_buffer('values', torch.ones(2, 3, dtype=dtype).t())
        self.register_buffer('count', torch.tensor(3))


def test_digest_tells_weights_and_settings_apart():
    changed, counted, reshaped = Network(), Network(), Network()
    changed.values[2, 1] += 1e-6
    counted.count += 1
    reshaped.values = reshaped.values.reshape(6)
    digests = [digest(network, dict(a=1)) for network in (
        Network(), changed, counted, reshaped, Network(torch.bfloat16))]
    digests += [digest(Network(), dict(a=2)), digest(Network(), dict(a=1), 1)]
    assert len(set(digests)) == len(digests)
    assert digest(Network(), dict(a=1)) == digests[0] and len(digests[0]) == 64

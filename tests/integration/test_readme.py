"""The configs of the README run as they stand there."""
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from benchmark.variants import make_batch, prepare

from .small_models import small_config

ROOT = Path(__file__).parents[2]
MY_STUDENT = ROOT / 'configs/det/toy/student_retinanet_shapes.py'


def test_ten_lines_and_another_criterion(tmp_path):
    akd, mgd = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    assert akd.count('\n') <= 10 and mgd.count('\n') <= 10
    # Five levels, as the teacher's; everything else is the toy's.
    (tmp_path / 'my_student.py').write_text(
        f"_base_ = '{MY_STUDENT}'\nmodel = dict(neck=dict(num_outs=5), bbox_head=dict("
        'anchor_generator=dict(strides=[8, 16, 32, 64, 128])))\n')
    for name, text, criterion in ('my_akd_student', akd, 'ChannelWiseDivergence'), (
            'my_mgd_student', mgd, 'MGDLoss'):
        (tmp_path / f'{name}.py').write_text(text)
        cfg = Config.fromfile(tmp_path / f'{name}.py')
        cfg.model.teacher_ckpt = None
        init_default_scope(cfg.default_scope)
        model = prepare(MODELS.build(cfg.model), (128, 128), 'cpu')
        losses = model.distiller['fpn'].losses
        assert {type(loss.criterion).__name__ for loss in losses} == {criterion}
        data = model.data_preprocessor(make_batch('mmdet', (128, 128), 2), True)
        loss = model(**data, mode='loss')['distill.loss_fpn']
        loss.backward()
        assert loss.isfinite() and loss > 0
        assert model.backbone.conv1.weight.grad.any()
    generators = [loss.criterion.generation for loss in losses]
    # Not every weight: the mask may cover the whole of the topmost map, which is one position.
    assert all(any(parameter.grad.any() for parameter in generator.parameters())
               for generator in generators)


def test_ten_lines_keep_the_students_hooks(toy, workspace):
    """YOLOX brings a mode switch, SyncNorm and EMA; all of them run beside ours."""
    ten_lines, _ = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    student = small_config('yolox', toy)
    student.dump(workspace / 'my_student.py')
    (workspace / 'my_akd_student.py').write_text(ten_lines)
    cfg = Config.fromfile(workspace / 'my_akd_student.py')
    cfg.model.update(teacher=cfg.model.student, teacher_ckpt=None)
    runner = Runner.from_cfg(cfg)
    runner.train()

    names = [type(hook).__name__ for hook in runner.hooks]
    shipped = [hook.type for hook in student.custom_hooks]
    assert shipped == ['YOLOXModeSwitchHook', 'SyncNormHook', 'EMAHook']
    assert all(names.count(name) == 1 for name in [*shipped, 'PerturbationHook'])
    # Ours has the priority of its class.
    assert names.index('RuntimeInfoHook') < names.index('PerturbationHook')
    assert names.index('PerturbationHook') < names.index('LoggerHook')
    assert runner.model.student.bbox_head.use_l1
    assert 'train/sigma/fpn.0' in runner.message_hub.log_scalars
    ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
    assert ema.ema_model.steps == 4

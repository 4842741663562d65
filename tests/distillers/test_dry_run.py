"""Networks that take no small image: BEiT of mmseg, whose size is fixed, and DINO of mmdet."""
import re

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmakd.checks.complexity import measure_network
from mmakd.distillers.dry_run import dry_run, on_small_image
from mmakd.distillers.tap_pair import TapPair
from mmakd.utils.errors import ConfigError, ConfigProblems
from mmakd.utils.references import resolve_model

from .small_beit import beit


def pspnet(toy, **preprocessor):
    cfg = toy('seg', 'student').model
    cfg.data_preprocessor.pop('size_divisor')
    cfg.data_preprocessor.update(preprocessor)
    return cfg.to_dict()


def distiller(student, teacher):
    init_default_scope('mmseg')
    return MODELS.build(dict(
        type='AvatarDistiller', student=student, teacher=teacher, teacher_ckpt=None,
        distill=dict(logits=dict(tap='decode_head.conv_seg', resize=True, loss=dict(
            type='ChannelWiseDivergence', tau=1.0)))))


NAMED = dict(size=(64, 64))
UNNAMED = dict(size_divisor=32)
PAIRS = {
    'student': lambda toy: (beit(64, (64, 64)), pspnet(toy, **UNNAMED)),
    'teacher': lambda toy: (pspnet(toy, **NAMED), beit(64, (64, 64))),
    'both': lambda toy: (beit(64, (64, 64)), beit(64, (640, 640))),
    'the teacher names it': lambda toy: (pspnet(toy, **UNNAMED), beit(64, (64, 64))),
    'the backbone alone': lambda toy: (pspnet(toy, **UNNAMED), beit(64, None, **UNNAMED)),
}


@pytest.mark.parametrize('pair', PAIRS)
def test_a_step_on_the_one_size(pair, toy):
    model = distiller(*PAIRS[pair](toy))
    assert model.backbone.training and model.decode_head.training
    assert not model.teacher.training
    samples = [SegDataSample(metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64)))
               for _ in range(2)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.randint(7, (1, 64, 64)))
    losses = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
    losses['distill.loss_logits'].backward()
    gradients = [part.grad for part in model.backbone.parameters() if part.grad is not None]
    assert all(part.isfinite().all() for part in gradients)
    assert any(part.any() for part in gradients)


def test_both_take_one_size_or_it_is_an_error(toy):
    # The student's images are of 64 x 64, and the teacher takes none but of 96 x 96.
    with pytest.raises(ConfigError) as error:
        distiller(pspnet(toy, **NAMED), beit(96, (96, 96)))
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(
        'model.teacher: fails on a small image: RuntimeError: The size of tensor')


def test_maps_are_those_of_the_size_they_have_in_training(toy):
    init_default_scope('mmseg')
    student, teacher = (MODELS.build(cfg) for cfg in PAIRS['teacher'](toy))
    problems = ConfigProblems()
    maps = dry_run(student, teacher, dict(task=TapPair('backbone', 'backbone')), problems)
    assert not problems.problems
    assert [[tuple(part.shape) for part in side] for side in maps['task'][:2]] == [
        [(1, 8, 16, 16), (1, 16, 16, 16), (1, 32, 16, 16)], [(1, 16, 4, 4)] * 4]
    # Where a small image will do, it is taken.
    maps = dry_run(student, student, dict(task=TapPair('backbone', 'backbone')), problems)
    assert maps['task'][0][0].shape == (1, 8, 32, 32)


def test_detectors_name_no_size():
    init_default_scope('mmdet')
    # 900 queries are chosen among the positions of all levels.
    layers = dict(num_layers=1)
    dino = MODELS.build(resolve_model(dict(
        cfg='mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', encoder=layers, decoder=layers,
        backbone=dict(depth=18, base_channels=8, init_cfg=None),
        neck=dict(in_channels=[16, 32, 64]))))
    found = measure_network(dino)
    assert found.image_size == (512, 512)
    assert found.flops > measure_network(dino, (256, 256)).flops > 0


@pytest.mark.parametrize(('named', 'size'), [
    ((32, 48), (32, 48)), (640, (640, 640)), ('640', (512, 512)), ((0, 64), (512, 512)),
    ((64, 64, 3), (512, 512)), (None, (512, 512))])
def test_errors_are_those_of_the_large_image(named, size, toy):
    init_default_scope('mmseg')
    network = MODELS.build(pspnet(toy, size=named))
    tried = []

    def fail(size):
        tried.append(size)
        raise ValueError(size)

    with pytest.raises(ValueError, match=re.escape(str(size))):
        on_small_image(fail, network)
    assert tried == [(128, 128), size]

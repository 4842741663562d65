"""Two views of one image, from the pipeline to the teacher."""
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner

from mmakd.utils.errors import ConfigError

DARKEN = dict(type='Darken')
BATCH = dict(type='BatchSyncRandomResize', random_size_range=(96, 128), interval=1)


@TRANSFORMS.register_module(force=True)
class Darken(BaseTransform):
    """Halves every value, in place."""

    def transform(self, results):
        results['img'] //= 2
        return results


@TRANSFORMS.register_module(force=True)
class Drop(BaseTransform):

    def transform(self, results):
        return None


def two_views(cfg, *student):
    cfg.train_dataloader.dataset.pipeline[-1].student = list(student)
    return cfg


@pytest.fixture
def runner(toy):
    """A Runner whose student's images are darkened; the images that its teacher gets."""

    def make(task, *student, **changes):
        runner = Runner.from_cfg(two_views(toy(task, 'meanteacher', **changes), *student))
        seen = []
        runner.model.teacher.backbone.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].clone()))
        return runner, seen

    return make


def step(runner):
    """The student's images and the data samples of a batch, seen by both."""
    batch = next(iter(runner.train_dataloader))
    data = runner.model.data_preprocessor(batch, training=True)
    runner.model(**data, mode='loss')
    return data['inputs'], data['data_samples']


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_teacher_sees_the_image_from_before(task, runner):
    changes = {'model.student.data_preprocessor.' + (
        'pad_size_divisor' if task == 'det' else 'size_divisor'): 80}
    run, seen = runner(task, DARKEN, **changes)
    inputs, samples = step(run)
    preprocessor = run.model.data_preprocessor
    size = samples[0].img_shape[:2]
    assert inputs.shape[2:] != size and not inputs[..., size[0]:, :].any()
    for image, dark, sample in zip(seen[0], inputs, samples):
        raw = sample.teacher_view
        assert raw.dtype == torch.uint8 and raw.shape[1:] == size
        halved = (image[:, :size[0], :size[1]] * preprocessor.std + preprocessor.mean) // 2
        own = dark[:, :size[0], :size[1]] * preprocessor.std + preprocessor.mean
        assert (halved - own).abs().max() <= 1 and own.max() > 100
        expected = (raw[[2, 1, 0]].float() - preprocessor.mean) / preprocessor.std
        assert torch.equal(image[:, :size[0], :size[1]], expected)
        padding = torch.ones(image.shape[1:], dtype=torch.bool)
        padding[:size[0], :size[1]] = False
        assert padding.any() and not image[:, padding].any()


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_without_augmentation_both_see_the_same(task, runner):
    run, seen = runner(task)
    inputs, _ = step(run)
    assert torch.equal(seen[0], inputs) and inputs.any()


def test_another_normalisation_and_an_image_without_a_view(toy):
    cfg = two_views(toy('seg', 'meanteacher'), DARKEN)
    other = dict(cfg=dict(cfg.model.student), data_preprocessor=dict(
        mean=[0., 0., 0.], std=[2., 2., 2.], bgr_to_rgb=False))
    cfg.model.update(teacher=other, teacher_ckpt=None)
    del cfg.default_hooks['ema_teacher']
    runner = Runner.from_cfg(cfg)
    seen = []
    runner.model.teacher.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = next(iter(runner.train_dataloader))
    del batch['data_samples'][1].teacher_view
    data = runner.model.data_preprocessor(batch, training=True)
    runner.model(**data, mode='loss')
    raw = data['data_samples'][0].teacher_view
    torch.testing.assert_close(seen[0][0], raw / 2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[0][1], batch['inputs'][1] / 2, rtol=1e-4, atol=1e-4)


def test_a_dropped_image_is_dropped(toy):
    cfg = two_views(toy('seg', 'meanteacher'), dict(type='Drop'))
    init_default_scope(cfg.default_scope)
    assert DATASETS.build(cfg.train_dataloader.dataset).prepare_data(0) is None


@pytest.mark.parametrize('task, transform', [
    ('seg', dict(type='RandomFlip', prob=1.0)),
    ('seg', dict(type='Resize', scale=(32, 32))),
    ('det', dict(type='RandomFlip', prob=1.0)),
])
def test_moved_pixels_are_an_error(task, transform, toy):
    runner = Runner.from_cfg(two_views(toy(task, 'meanteacher'), DARKEN, transform))
    runner.train_dataloader.dataset.pipeline.transforms[-2].prob = 0.0  # not flipped before
    with pytest.raises(ConfigError, match=(
            r'^train_dataloader\.dataset\.pipeline: TwoViews\.student moves pixels, from .*'
            rf'among Darken, {transform["type"]} before TwoViews')):
        runner.train()
    assert runner.iter == 0


def test_resizing_of_the_batch_is_an_error(runner):
    run, _ = runner('det', **{'model.student.data_preprocessor.batch_augments': [BATCH]})
    run.message_hub.update_info('iter', 0)
    with pytest.raises(ConfigError, match=(
            r"^train_dataloader\.dataset\.pipeline: TwoViews keeps an image of \(96, 96\) for the "
            r"teacher, but the student's is .* leave out data_preprocessor\.batch_augments")):
        for _ in range(5):  # some sizes are that of the image
            step(run)

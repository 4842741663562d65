import copy

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

from mmakd.distillers.renormalize import renormalize, same_normalization

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
OTHERS = {
    'caffe': CAFFE,
    'unit_std': dict(IMAGENET, std=[1.0, 1.0, 1.0]),
    'bgr': dict(IMAGENET, bgr_to_rgb=False),
    'raw': dict(),
    'raw_rgb': dict(bgr_to_rgb=True),
}
each_other = pytest.mark.parametrize('other', OTHERS.values(), ids=OTHERS)

SIZES = [(40, 64), (33, 50)]


def detector(**cfg):
    return DetDataPreprocessor(pad_size_divisor=32, **cfg)


def segmentor(**cfg):
    return SegDataPreProcessor(size=(64, 64), **cfg)


def make_batch(sample_type):
    generator = torch.Generator().manual_seed(0)
    samples = [sample_type(metainfo=dict(img_shape=size)) for size in SIZES]
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
              for size in SIZES]
    return dict(inputs=images, data_samples=samples)


@each_other
@pytest.mark.parametrize('swap', [False, True], ids=['to_other', 'from_other'])
@pytest.mark.parametrize('preprocessor, sample_type', [
    (detector, DetDataSample), (segmentor, SegDataSample)], ids=['detector', 'segmentor'])
def test_is_what_the_teachers_own_preprocessor_gives(preprocessor, sample_type, swap, other):
    cfgs = (other, IMAGENET) if swap else (IMAGENET, other)
    student, teacher = (preprocessor(**cfg) for cfg in cfgs)
    raw = make_batch(sample_type)
    # A segmentor's preprocessor pads as a batch in training only.
    of_student, of_teacher = (p(copy.deepcopy(raw), training=True) for p in (student, teacher))
    inputs = of_student['inputs'].clone()
    images = renormalize(inputs, of_student['data_samples'], student, teacher)
    torch.testing.assert_close(images, of_teacher['inputs'], rtol=1e-5, atol=1e-4)
    assert inputs.equal(of_student['inputs'])
    for image, (height, width) in zip(images, SIZES):
        assert image.shape[1:] == (64, 64)
        assert not image[:, height:].any() and not image[:, :, width:].any()
    assert not same_normalization(student, teacher)


def test_without_data_samples_the_whole_image_counts():
    student, teacher = detector(**IMAGENET), detector(**CAFFE)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = dict(inputs=list(images))
    of_student, of_teacher = (ImgDataPreprocessor.forward(p, copy.deepcopy(batch))['inputs']
                              for p in (student, teacher))
    torch.testing.assert_close(renormalize(of_student, None, student, teacher), of_teacher,
                               rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('cfg', [IMAGENET, *OTHERS.values()])
def test_same_normalization(cfg):
    # Padding and the class do not matter.
    assert same_normalization(detector(**cfg), segmentor(**cfg))


def test_preprocessors_that_do_not_normalise_are_alike():
    assert same_normalization(BaseDataPreprocessor(), ImgDataPreprocessor())
    assert not same_normalization(BaseDataPreprocessor(), detector(**IMAGENET))

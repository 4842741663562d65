"""FGD against NumPy and hand-computed cases, alone and in the distiller."""
import math

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import BaseDataElement, InstanceData

from mmakd.losses import FGDLoss, UncertaintyFeatureLoss
from mmakd.utils.errors import ConfigError

SHAPE = (2, 6, 4, 5)
IMAGE = (32, 40)
# Overlapping, beyond the border, and tiny ones; the second image has none.
BOXES = [[[0., 0., 17., 9.], [8., 4., 40., 36.], [21., 21., 22., 23.]], []]
WEIGHTS = dict(alpha_fgd=0.3, beta_fgd=0.5, gamma_fgd=0.7, lambda_fgd=0.2)


def sample(boxes, image=IMAGE, kind=torch.Tensor):
    element = BaseDataElement(metainfo=dict(batch_input_shape=image))
    element.gt_instances = InstanceData(bboxes=kind(torch.tensor(boxes).view(-1, 4)))
    return element


def box_masks(boxes, size, image=IMAGE):
    """Foreground and background of one image, position by position."""
    height, width = size
    foreground = np.zeros(size)
    for x1, y1, x2, y2 in boxes:
        left, top = math.floor(x1 / image[1] * width), math.floor(y1 / image[0] * height)
        right, bottom = math.ceil(x2 / image[1] * width), math.ceil(y2 / image[0] * height)
        for row in range(height):
            for column in range(width):
                if left <= column <= right and top <= row <= bottom:
                    area = (right - left + 1) * (bottom - top + 1)
                    foreground[row, column] = max(foreground[row, column], 1 / area)
    background = (foreground == 0).astype(float)
    return foreground, background / max(background.sum(), 1)


def softmax(values):
    odds = np.exp(values - values.max())
    return odds / odds.sum()


def attention(feature, temp):
    """Of one image (C, H, W): over positions (H, W) and over channels (C,)."""
    value = np.abs(feature)
    return (feature[0].size * softmax(value.mean(0) / temp),
            len(feature) * softmax(value.mean((1, 2)) / temp))


def with_context(feature, block):
    """GcBlock of one image: attention pooling, C - C/2 - C with LayerNorm and ReLU, added."""
    pool, pool_bias, down, down_bias, gain, shift, up, up_bias = (
        value.reshape(-1) if value.ndim < 2 or value.shape[1] == 1 else value.squeeze()
        for value in block)
    weights = softmax(np.einsum('c,chw->hw', pool, feature) + pool_bias)
    inner = down @ (feature * weights).sum((1, 2)) + down_bias
    inner = (inner - inner.mean()) / np.sqrt(inner.var() + 1e-5) * gain + shift
    return feature + (up @ np.maximum(inner, 0) + up_bias)[:, None, None]


def formula(student, teacher, blocks, temp=0.5, boxes=BOXES, alpha_fgd=0., beta_fgd=0.,
            gamma_fgd=0., lambda_fgd=0.):
    """Sum of the four terms of arXiv 2111.11837, image by image."""
    total = 0
    for s, t, image_boxes in zip(student, teacher, boxes):
        foreground, background = box_masks(image_boxes, s.shape[1:])
        (space_s, channel_s), (space_t, channel_t) = attention(s, temp), attention(t, temp)
        focus = space_t * channel_t[:, None, None] * (s - t)**2
        total += alpha_fgd * (foreground * focus).sum() + beta_fgd * (background * focus).sum()
        total += gamma_fgd * (np.abs(space_s - space_t).sum() +
                              np.abs(channel_s - channel_t).sum())
        difference = with_context(s, blocks[:8]) - with_context(t, blocks[8:])
        total += lambda_fgd * (difference**2).sum()
    return total / len(student)


def arrays(tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.fixture
def samples():
    return [sample(boxes) for boxes in BOXES]


def make_loss(**kwargs):
    """A loss whose context blocks have learned something: they begin at zero."""
    torch.manual_seed(0)
    loss = FGDLoss(channels=SHAPE[1], **kwargs)
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return loss


def test_masks_by_hand():
    """A map of 2 x 4 positions of 8 pixels; a box over the left half, one in its corner."""
    ones = torch.ones(1, 1, 2, 4)
    image = (16, 32)
    boxes = [[1., 1., 15., 15.], [2., 2., 3., 3.]]
    # The large box covers columns 0 to 2 and rows 0 to 2, of which the map has two: area 9.
    # The small one covers columns and rows 0 to 1: area 4. Column 3 is background: area 2.
    for weights, expected in ((dict(alpha_fgd=1), 4 / 4 + 2 / 9), (dict(beta_fgd=1), 2 / 2)):
        loss = FGDLoss(channels=1, **{**dict.fromkeys(WEIGHTS, 0), **weights})
        # Constant maps: all attention is 1, and the squared difference 9.
        value = loss(4 * ones, ones, [sample(boxes, image)])
        assert value.item() == pytest.approx(9 * expected)


def test_attention_by_hand():
    """One channel, two positions: 2 softmax(0, 1) = (0.5, 1.5) where e^(x / temp) is 1 and 3."""
    loss = FGDLoss(temp=0.5, channels=1, loss_weight=2,
                   **{**dict.fromkeys(WEIGHTS, 0), 'gamma_fgd': 3})
    student = torch.tensor([[[[0., math.log(3) / 2]]]])
    value = loss(student, torch.zeros(1, 1, 1, 2), [sample([])])
    assert value.item() == pytest.approx(2 * 3 * (0.5 + 0.5))


@pytest.mark.parametrize('weights', [WEIGHTS, *({key: WEIGHTS[key]} for key in WEIGHTS)])
def test_value(maps, samples, weights):
    loss = make_loss(temp=0.8, **{**dict.fromkeys(WEIGHTS, 0), **weights})
    expected = formula(*arrays(maps), arrays(loss.parameters()), temp=0.8, **weights)
    assert expected > 0.1
    assert loss(*maps, samples).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_by_finite_differences(maps, samples):
    loss = make_loss(**WEIGHTS)
    loss(*maps, samples).backward()
    learned = [maps[0], *loss.parameters()]
    values, teacher = arrays(learned), arrays(maps)[1]
    assert len(values) == 1 + 2 * 8
    rng = np.random.default_rng(0)
    for index, tensor in enumerate(learned):
        direction = rng.standard_normal(tensor.shape)

        def moved(step, index=index, direction=direction):
            student, *blocks = (value + step * direction if i == index else value
                                for i, value in enumerate(values))
            return formula(student, teacher, blocks, **WEIGHTS)

        slope = (tensor.grad.double().numpy() * direction).sum()
        assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-3, abs=1e-4)


def test_context_begins_as_plain_difference(maps, samples):
    loss = FGDLoss(channels=6, **{**dict.fromkeys(WEIGHTS, 0), 'lambda_fgd': 1})
    expected = ((maps[0] - maps[1])**2).sum() / 2
    torch.testing.assert_close(loss(*maps, samples), expected)


def test_boxes_of_mmdet(maps, samples):
    loss = make_loss()
    boxed = [sample(boxes, kind=HorizontalBoxes) for boxes in BOXES]
    assert loss(*maps, boxed).equal(loss(*maps, samples))


def test_boxes_lie_on_the_padded_image(maps):
    """In an image padded to twice its size the same box covers a quarter of the positions."""
    loss = FGDLoss(channels=6, **{**dict.fromkeys(WEIGHTS, 0), 'alpha_fgd': 1})
    student, teacher = torch.ones(1, 6, 8, 8), torch.zeros(1, 6, 8, 8)
    student.requires_grad_()
    loss(student, teacher, [sample([[0., 0., 31., 31.]], (64, 64))]).backward()
    covered = student.grad[0].any(0)
    assert covered[:5, :5].all() and covered.sum() == 25


@pytest.mark.parametrize('feature', ['large', 'small', 'constant', 'zero'])
def test_extreme_features_stay_finite(maps, samples, feature):
    scale = dict(large=1e4, small=1e-6, constant=0., zero=0.)[feature]
    shift = 1. if feature == 'constant' else 0.
    student = (scale * maps[0].detach() + shift).requires_grad_()
    loss = make_loss(**WEIGHTS)
    value = loss(student, scale * maps[1] + shift, samples)
    value.backward()
    assert value.isfinite()
    assert all(t.grad.isfinite().all() for t in (student, *loss.parameters()))


@pytest.mark.parametrize('boxes', [[[]], [[[0., 0., 40., 32.]]]], ids=['none', 'all'])
def test_image_of_background_or_foreground_alone(maps, boxes):
    loss = make_loss(**WEIGHTS)
    student, teacher = maps[0][:1], maps[1][:1]
    expected = formula(*arrays((student, teacher)), arrays(loss.parameters()), boxes=boxes,
                       **WEIGHTS)
    value = loss(student, teacher, [sample(image_boxes) for image_boxes in boxes])
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_arithmetic_is_float32(maps, samples):
    loss, low = make_loss(**WEIGHTS), [feature.bfloat16() for feature in maps]
    expected = loss(*(feature.float() for feature in low), samples)
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(*low, samples)
    assert value.dtype == torch.float32 and value.equal(expected)


@pytest.mark.parametrize('number', [1, 3])
def test_as_criterion_of_the_avatars(maps, samples, number):
    akd = UncertaintyFeatureLoss(dict(type='FGDLoss'), num_avatars=number, channels=6)
    akd(*maps, data_samples=samples).backward()
    assert maps[0].grad.any()
    learned = [block.channel_add_conv[-1].weight for block in akd.criterion.children()]
    assert len(learned) == 2 and all(weight.grad.any() for weight in learned)


@pytest.mark.parametrize('changes, message', [
    (dict(channels=None), r'^channels=None: FGDLoss has to know .* AvatarDistiller .*channels='),
    (dict(temp=0), r'^temp=0: must be a number > 0'),
    (dict(alpha_fgd=-1, gamma_fgd='1'), r'^2 problems(.|\n)*alpha_fgd=-1(.|\n)*gamma_fgd='),
])
def test_bad_argument_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        FGDLoss(**{'channels': 4, **changes})


def test_one_channel_is_enough():
    loss = FGDLoss(channels=1)
    assert loss(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), [sample([])]).item() > 0


@pytest.mark.parametrize('given, message', [
    (None, 'needs the data sample of each of the 2 images, but none given'),
    ([sample([])], 'each of the 2 images, but 1 given'),
    ([BaseDataElement(), BaseDataElement()], 'a data sample has no ground-truth boxes'),
])
def test_missing_boxes_are_named(maps, given, message):
    with pytest.raises(ValueError, match=message):
        make_loss()(*maps, given)


def test_a_segmentor_has_no_boxes(model):
    with pytest.raises(ConfigError, match=r'loss: FGDLoss fails on .*ground-truth boxes'):
        model('seg', 'cwd', **{'model.distill.logits.loss': dict(_delete_=True, type='FGDLoss')})


FGD = dict(_delete_=True, type='FGDLoss')
AKD = dict(_delete_=True, type='UncertaintyFeatureLoss', criterion=dict(type='FGDLoss'))


@pytest.mark.parametrize('cfg, prefix', [(FGD, ''), (AKD, 'criterion.')])
def test_trains_saves_and_resumes_in_the_distiller(toy, train, cfg, prefix):
    changes = {'model.distill.fpn.loss': cfg}
    runner = train(toy('det', 'cwd', **changes))
    parameters = dict(runner.model.named_parameters())
    own = {key for key in parameters if '.context_' in key}
    assert len(own) == 3 * 2 * 8
    assert all(key.startswith('distiller.fpn.losses.') and f'.{prefix}context_' in key
               for key in own)
    adam = runner.optim_wrapper.optimizer.state
    learned = [key for key in own if adam[parameters[key]]['exp_avg'].any()]
    # A constant added to the pooling's logits changes nothing.
    assert set(own) - set(learned) <= {key for key in own if key.endswith('conv_mask.bias')}
    state = runner.model.state_dict()
    resumed = train(toy('det', 'cwd', resume=True, **changes)).model.state_dict()
    assert all(resumed[key].equal(state[key]) for key in own)

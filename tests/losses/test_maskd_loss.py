"""MasKD and its tokens against NumPy and hand-computed cases, alone and in the distiller."""
import math

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from mmakd.losses import MasKDLoss, UncertaintyFeatureLoss
from mmakd.losses.mask_tokens import MaskTokens, dice_overlap
from mmakd.utils.errors import ConfigError

SHAPE = (2, 3, 4, 5)
NUM_TOKENS = 4


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def mask_weights(feature, conv, conv_bias, head, head_bias):
    """softmax(head(mean(conv3x3(feature)))), (N, T)."""
    height, width = feature.shape[2:]
    padded = np.pad(feature, ((0, 0), (0, 0), (1, 1), (1, 1)))
    pooled = conv_bias + sum(
        padded[:, :, i:i + height, j:j + width].mean((2, 3)) @ conv[:, :, i, j].T
        for i in range(3) for j in range(3))
    odds = np.exp(pooled @ head[:, :, 0, 0].T + head_bias)
    return odds / odds.sum(1, keepdims=True)


def formula(student, teacher, tokens, weighting=(), student_masks=None):
    """Mask by mask: what the masks leave of both maps, by the area, weighted."""
    masks = sigmoid(np.einsum('tc,nchw->nthw', tokens, teacher))
    if student_masks is not None:
        masks = masks * student_masks
    weights = np.full(masks.shape[:2], 1 / len(tokens))
    if weighting:
        weights = mask_weights(teacher, *weighting)
    total = 0
    for n in range(len(student)):
        for t in range(len(tokens)):
            difference = masks[n, t] * student[n] - masks[n, t] * teacher[n]
            total += weights[n, t] * (difference**2).sum(
                (1, 2)).mean() / masks[n, t].sum()
    return total / len(student)


def arrays(tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.fixture
def iteration():
    """Set the iteration of the Runner."""
    hub = MessageHub.get_instance('test_maskd_loss')
    yield lambda number: hub.update_info('iter', number)
    MessageHub._instance_dict.pop('test_maskd_loss')


def make_loss(**kwargs):
    """A loss whose tokens have learned something: they begin near zero."""
    torch.manual_seed(0)
    loss = MasKDLoss(num_tokens=NUM_TOKENS, channels=SHAPE[1], **kwargs)
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter)
    return loss


def checkpoint(path, levels=1, num_tokens=NUM_TOKENS, channels=SHAPE[1], weight_masks=True):
    """Write what a MaskTokenLearner saves; return the tokens of each level."""
    torch.manual_seed(1)
    tokens = [MaskTokens(num_tokens, channels, weight_masks) for _ in range(levels)]
    state = {f'mask_modules.{level}.{name}': value for level, module in enumerate(tokens)
             for name, value in module.state_dict().items()}
    torch.save(dict(state_dict=state, meta=dict(epoch=1)), path)
    return tokens


def test_by_hand():
    """Two positions, masks 3/4 and 1/2 of token 0, 1/4 and 1/2 of token 1, which counts 1/3."""
    loss = MasKDLoss(num_tokens=2, channels=1, loss_weight=6)
    loss.mask_tokens.mask_token.copy_(torch.tensor([[1.], [-1.]]))
    for parameter in loss.mask_tokens.prob.parameters():
        torch.nn.init.zeros_(parameter)
    loss.mask_tokens.prob[2].bias.copy_(torch.tensor([math.log(2), 0.]))
    teacher = torch.tensor([[[[math.log(3), 0.]]]])
    student = teacher + torch.tensor([[[[2., 4.]]]])
    first = (9 / 16 * 4 + 1 / 4 * 16) / (5 / 4)
    second = (1 / 16 * 4 + 1 / 4 * 16) / (3 / 4)
    assert loss(student, teacher).item() == pytest.approx(6 * (2 * first + second) / 3)


def test_dice_by_hand():
    masks = torch.tensor([[[[1., 0.]], [[1., 1.]], [[0., 0.]]]])
    # Of the six ordered pairs, two are 2 * 1 / (1 + 2); a mask of nothing overlaps nothing.
    assert dice_overlap(masks).item() == pytest.approx(2 * (2 / 3) / 6)
    assert dice_overlap(masks[:, :1]).item() == 0
    assert dice_overlap(masks[:, :1].expand(1, 3, 1, 2)).item() == pytest.approx(1)


@pytest.mark.parametrize('weight_masks', [True, False])
def test_value(maps, weight_masks):
    loss = make_loss(weight_masks=weight_masks)
    tokens, *weighting = arrays(loss.parameters())
    assert len(weighting) == 4 * weight_masks
    expected = formula(*arrays(maps), tokens, weighting)
    assert loss(*maps).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('begin, now, used', [
    (7000, None, False), (7000, 6999, False), (7000, 7000, True), (7000, 9000, True),
    (0, None, True), (0, 0, True), (None, 10**6, False)])
def test_student_masks_from_an_iteration_on(maps, iteration, begin, now, used):
    loss = make_loss(student_masks_begin=begin)
    if now is not None:
        iteration(now)
    tokens, *weighting = arrays(loss.parameters())
    student, teacher = arrays(maps)
    masks = sigmoid(np.einsum('tc,nchw->nthw', tokens, student)) if used else None
    expected = formula(student, teacher, tokens, weighting, masks)
    assert loss(*maps).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('begin', [None, 0])
def test_gradient_by_finite_differences(maps, begin):
    """The masks are taken as they are, the student's too; the tokens do not learn."""
    loss = make_loss(student_masks_begin=begin)
    loss(*maps).backward()
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    tokens, *weighting = arrays(loss.parameters())
    student, teacher = arrays(maps)
    masks = None if begin is None else sigmoid(np.einsum('tc,nchw->nthw', tokens, student))
    gradient = maps[0].grad.double().numpy()
    for position in np.ndindex(SHAPE):
        step = np.zeros(SHAPE)
        step[position] = 1e-5
        difference = (formula(student + step, teacher, tokens, weighting, masks) -
                      formula(student - step, teacher, tokens, weighting, masks))
        assert gradient[position] == pytest.approx(difference / 2e-5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize('begin', [None, 0])
@pytest.mark.parametrize('feature', ['large', 'small', 'constant', 'zero', 'unmarked'])
def test_extreme_features_stay_finite(maps, feature, begin):
    loss = make_loss(student_masks_begin=begin)
    student, teacher = maps[0].detach(), maps[1]
    if feature == 'unmarked':  # every mask is zero everywhere
        loss.mask_tokens.mask_token.copy_(-1e4 * torch.ones(NUM_TOKENS, SHAPE[1]))
        student, teacher = student.abs() + 1, teacher.abs() + 1
    else:
        scale = dict(large=1e4, small=1e-6, constant=0., zero=0.)[feature]
        shift = 1. if feature == 'constant' else 0.
        student, teacher = scale * student + shift, scale * teacher + shift
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


def test_arithmetic_is_float32(maps):
    loss, low = make_loss(), [feature.bfloat16() for feature in maps]
    expected = loss(*(feature.float() for feature in low))
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(*low)
    assert value.dtype == torch.float32 and value.equal(expected)


@pytest.mark.parametrize('number', [1, 3])
def test_as_criterion_of_the_avatars(maps, iteration, number):
    """The masks are those of each Avatar; the iteration is the same in the recomputation."""
    iteration(5)
    akd = UncertaintyFeatureLoss(
        dict(type='MasKDLoss', num_tokens=NUM_TOKENS, student_masks_begin=5),
        num_avatars=number, channels=SHAPE[1])
    plain = make_loss(student_masks_begin=5)
    akd.criterion.load_state_dict(plain.state_dict())
    akd(*maps).backward()
    assert maps[0].grad.any()
    seen = []
    akd.criterion.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    akd(*maps)
    assert len(seen) == number
    for (student, avatar), value in seen:
        assert not torch.equal(avatar, maps[1])
        assert value.equal(plain(student, avatar))


@pytest.mark.parametrize('weight_masks', [True, False])
def test_init_weights_reads_its_level(tmp_path, weight_masks):
    tokens = checkpoint(tmp_path / 'tokens.pth', levels=3)
    for level in range(3):
        loss = MasKDLoss(tokens=str(tmp_path / 'tokens.pth'), num_tokens=NUM_TOKENS, level=level,
                         channels=SHAPE[1], weight_masks=weight_masks)
        loss.init_weights()
        learned = tokens[level].state_dict()
        for name, value in loss.mask_tokens.state_dict().items():
            assert value.equal(learned[name])
        assert not loss.mask_tokens.mask_token.requires_grad
        assert (loss.mask_tokens.prob is not None) == weight_masks


def test_init_weights_reads_the_authors_form(tmp_path):
    """A whole detector's weights, with those of the tokens among them."""
    tokens, = checkpoint(tmp_path / 'tokens.pth')
    published = torch.load(tmp_path / 'tokens.pth')
    published['state_dict']['backbone.conv1.weight'] = torch.zeros(3)
    torch.save(published, tmp_path / 'published.ckpt')
    loss = MasKDLoss(str(tmp_path / 'published.ckpt'), NUM_TOKENS, channels=SHAPE[1])
    loss.init_weights()
    assert loss.mask_tokens.mask_token.equal(tokens.mask_token)


LEARN = (r'learn the tokens of this teacher first, .*'
         r'python tools/train\.py configs/\S+maskd-tokens_\S+\.py')


@pytest.mark.parametrize('saved, changes, message', [
    (None, dict(tokens=None), rf'^MasKDLoss\.tokens=None: .*{LEARN}'),
    (None, dict(), rf'^MasKDLoss\.tokens=.*: no such file .*{LEARN}'),
    (dict(), dict(num_tokens=6), 'level 0 has 4 tokens of 3 channels, but num_tokens=6 and .* 3 '
     r'channels; set num_tokens=4'),
    (dict(), dict(channels=8), rf'4 tokens of 3 channels, .* has 8 channels; .*{LEARN}'),
    (dict(levels=2), dict(level=2), rf'tokens only for level 0, 1, but level 2 .*{LEARN}'),
    (dict(levels=0), dict(), 'holds no state_dict'),
    (dict(weight_masks=False), dict(), 'learned with weight_masks=False; set weight_masks=False'),
])
def test_tokens_that_do_not_fit_are_named(tmp_path, saved, changes, message):
    path = tmp_path / 'tokens.pth'
    if saved is not None:
        checkpoint(path, **saved)
    settings = dict(tokens=str(path), num_tokens=NUM_TOKENS, channels=SHAPE[1])
    loss = MasKDLoss(**{**settings, **changes})  # building never needs the file
    with pytest.raises(ConfigError, match=message):
        loss.init_weights()


def test_a_plain_network_holds_no_tokens(tmp_path):
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), tmp_path / 'net.pth')
    with pytest.raises(ConfigError, match=rf'tokens for no level at all.*{LEARN}'):
        MasKDLoss(str(tmp_path / 'net.pth'), channels=4).init_weights()


def test_a_file_with_code_is_refused(tmp_path):
    torch.save(dict(state_dict={'mask_modules.0.mask_token': MasKDLoss}), tmp_path / 'evil.pth')
    with pytest.raises(ConfigError, match='holds more than weights'):
        MasKDLoss(str(tmp_path / 'evil.pth'), channels=4).init_weights()


@pytest.mark.parametrize('changes, message', [
    (dict(channels=None), r'^channels=None: MasKDLoss has to know .* AvatarDistiller .*channels='),
    (dict(num_tokens=0), r'^num_tokens=0: must be an integer >= 1'),
    (dict(tokens=3, student_masks_begin=-1), r'^2 problems(.|\n)*tokens=3(.|\n)*student_masks'),
])
def test_bad_argument_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        MasKDLoss(**{'channels': 4, **changes})


def test_flat_features_are_named():
    with pytest.raises(ValueError, match=r'\(2, 3\) are no maps'):
        make_loss()(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize('name', ['maskd', 'akd-maskd'])
def test_trains_saves_and_resumes_in_the_distiller(toy, train, workspace, name):
    tokens = checkpoint(workspace / 'tokens.pth', levels=3, num_tokens=6, channels=64)
    loss = 'loss' if name == 'maskd' else 'loss.criterion'
    changes = {f'model.distill.fpn.{loss}.tokens': 'tokens.pth',
               f'model.distill.fpn.{loss}.student_masks_begin': 2}
    runner = train(toy('det', name, **changes))
    assert runner.message_hub.get_scalar('train/distill.loss_fpn').current() > 0
    state = runner.model.state_dict()
    own = [key for key in state if key.endswith('.mask_token')]
    assert len(own) == 3 and all(key.startswith('distiller.fpn.losses.') for key in own)
    for key, learned in zip(own, tokens):
        assert state[key].equal(learned.mask_token)

    resumed = train(toy('det', name, resume=True, **changes)).model.state_dict()
    assert all(resumed[key].equal(value) for key, value in state.items())
    # Building and loading for a test needs no file.
    (workspace / 'tokens.pth').unlink()
    model = MODELS.build(runner.cfg.model)
    load_checkpoint(model, f'{runner.work_dir}/epoch_1.pth', strict=True)
    assert all(model.state_dict()[key].equal(state[key]) for key in own)
    with pytest.raises(ConfigError, match=LEARN):
        model.init_weights()

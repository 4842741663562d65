"""Learning MasKD's tokens: what is masked, what learns, what is saved, and errors."""
import copy
import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmakd.distillers.assembly import build_network
from mmakd.losses.mask_tokens import MaskTokens, dice_overlap
from mmakd.utils.errors import ConfigError

from ..conftest import ROOT, TOY

TEACHER = {task: str(ROOT / path.format('teacher')) for task, path in TOY.items()}
# And how many of the first maps the toy teacher's heads do not use.
TAPS = [('det', 'neck', 0), ('det', 'backbone', 1), ('det', 'bbox_head.retina_cls', 0),
        ('seg', 'backbone', 2), ('seg', 'decode_head.conv_seg', 0)]


@pytest.fixture
def learner(toy):
    """Build a learner on a toy teacher: ``learner('det', tap='neck')``."""

    def build(task='det', **kwargs):
        init_default_scope('mmdet' if task == 'det' else 'mmseg')
        torch.manual_seed(0)
        return MODELS.build(dict(type='MaskTokenLearner', **{
            'teacher': TEACHER[task], 'teacher_ckpt': None, **kwargs}))

    return build


@pytest.fixture
def batch(toy):
    """A batch of the toy data: ``images, samples = batch('det', learner)``."""

    def load(task, model):
        dataloader = Runner.build_dataloader(toy(task, 'teacher').train_dataloader, seed=0)
        data = model.data_preprocessor(next(iter(dataloader)), True)
        return data['inputs'], data['data_samples']

    return load


def learn_something(model):
    """The tokens begin near zero, where all masks are alike."""
    for tokens in model.mask_modules:
        torch.nn.init.normal_(tokens.mask_token, std=0.3)


@pytest.mark.parametrize('weight_masks', [True, False])
def test_the_maps_behind_the_tap_are_masked(learner, batch, weight_masks):
    model = learner(weight_masks=weight_masks)
    learn_something(model)
    images, _ = batch('det', model)
    found = model(images, mode='tensor')
    with torch.no_grad():
        kept = []
        for feature, tokens in zip(model.teacher.extract_feat(images), model.mask_modules):
            masks = torch.einsum('tc,nchw->nthw', tokens.mask_token, feature).sigmoid()
            if weight_masks:
                masks = masks * tokens.prob(feature).softmax(1)
            kept.append(feature * masks.sum(1, keepdim=True))
        expected = model.teacher.bbox_head(tuple(kept))
    for kind in range(2):  # scores and boxes
        for ours, theirs in zip(found[kind], expected[kind], strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('mode', ['loss', 'predict', 'tensor'])
@pytest.mark.parametrize('task', ['det', 'seg'])
def test_nothing_stays_on_the_teacher(learner, batch, task, mode):
    model = learner(task, tap='backbone')
    learn_something(model)
    images, samples = batch(task, model)
    with torch.no_grad():
        before = model.teacher(images, mode='tensor')
        model(images, samples, mode=mode)
        torch.testing.assert_close(model.teacher(images, mode='tensor'), before)
        masked = model(images, mode='tensor')
    assert not model.teacher.backbone._forward_hooks
    with pytest.raises(AssertionError):
        torch.testing.assert_close(masked, before)


def test_a_copy_leaves_the_teacher_where_it_is(learner):
    model = learner()
    twin = copy.deepcopy(model).half()
    assert {p.dtype for p in twin.parameters()} == {torch.float16}
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}
    model.double()
    assert {p.dtype for p in twin.teacher.parameters()} == {torch.float64}


@pytest.mark.parametrize('task, tap, unused', TAPS)
def test_the_teachers_loss_reaches_every_token(learner, batch, task, tap, unused):
    model = learner(task, tap=tap, dice_weight=0.0)
    learn_something(model)
    losses = model(*batch(task, model), mode='loss')
    assert losses['loss_token_dice'].item() == 0
    model.parse_losses(losses)[0].backward()
    for level, tokens in enumerate(model.mask_modules):
        for name, parameter in tokens.named_parameters():
            # A softmax feels no constant.
            if level >= unused and name != 'prob.2.bias':
                assert parameter.grad.any(), (level, name)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


@pytest.mark.parametrize('name', [
    'reppoints/reppoints-moment_r50_fpn_1x_coco.py',
    'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py'])
def test_masks_that_keep_all_give_the_training_loss(learner, batch, monkeypatch, name):
    """Of heads whose outputs differ between training and prediction."""
    monkeypatch.setattr(MaskTokens, 'forward', lambda tokens, feature: (
        feature, feature.new_ones(1, 1, 1, 1)))
    model = learner(teacher=f'mmdet::{name}')
    images, samples = batch('det', model)
    with torch.no_grad():
        found, _ = model.parse_losses(model(images, samples, mode='loss'))
        assert not any(module.training for module in model.teacher.modules())
        expected, _ = model.parse_losses(model.teacher.train()(images, samples, mode='loss'))
    torch.testing.assert_close(found, expected)


def test_the_loss_has_no_dropout_and_the_teachers_statistics(learner, batch):
    model = learner('seg', tap='decode_head.conv_seg')
    assert model.teacher.decode_head.dropout.p > 0
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    images, samples = batch('seg', model)
    with torch.no_grad():
        first, again = (model(images, samples, mode='loss') for _ in range(2))
    assert first['decode.loss_ce'].equal(again['decode.loss_ce'])
    assert all(value.equal(before[name]) for name, value in model.teacher.state_dict().items())


def test_the_dice_term_is_that_of_the_masks(learner, batch):
    model = learner(dice_weight=2.0)
    learn_something(model)
    images, samples = batch('det', model)
    losses = model(images, samples, mode='loss')
    with torch.no_grad():
        maps = model.teacher.extract_feat(images)
        expected = 2 * sum(dice_overlap(tokens.masks(feature))
                           for feature, tokens in zip(maps, model.mask_modules))
    torch.testing.assert_close(losses['loss_token_dice'].detach(), expected)


def test_one_token_has_nothing_to_be_kept_from(learner, batch):
    model = learner(num_tokens=1)
    losses = model(*batch('det', model), mode='loss')
    assert losses['loss_token_dice'].item() == 0
    model.parse_losses(losses)[0].backward()
    assert all(tokens.mask_token.grad.any() for tokens in model.mask_modules)


def test_the_teacher_is_no_part_of_the_model(learner):
    model = learner()
    names = {'mask_token', *(f'prob.{layer}.{kind}' for layer in (0, 2)
                             for kind in ('weight', 'bias'))}
    assert set(model.state_dict()) == {f'mask_modules.{level}.{name}' for level in range(3)
                                       for name in names}
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=1.0)))
    held = {id(p) for group in optimizer.param_groups for p in group['params']}
    assert held == {id(p) for p in model.mask_modules.parameters()}
    assert not any(p.requires_grad for p in model.teacher.parameters())

    for mode in (True, False, True):
        model.train(mode)
        assert not any(module.training for module in model.teacher.modules()
                       if module is not model.data_preprocessor)
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    assert copied.mask_modules[0].mask_token is not model.mask_modules[0].mask_token
    model.double()
    assert all(p.dtype == torch.float64 for p in model.teacher.parameters())


def test_masks_are_float32_under_autocast(learner, batch):
    model = learner()
    learn_something(model)
    images, samples = batch('det', model)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(images, samples, mode='loss')
    with torch.no_grad():
        exact = model(images, samples, mode='loss')['loss_token_dice']
    assert losses['loss_token_dice'].dtype == torch.float32
    # The features are bfloat16's, the arithmetic of the masks is not.
    assert losses['loss_token_dice'].item() == pytest.approx(exact.item(), rel=2e-3)


def test_training_saves_tokens_that_the_loss_reads(toy, train, workspace):
    teacher = train(toy('det', 'teacher'))
    weights = f'{teacher.work_dir}/epoch_1.pth'
    cfg = toy('det', 'maskd-tokens', **{'model.teacher_ckpt': weights})
    runner = train(cfg)
    assert runner.message_hub.get_scalar('train/loss_token_dice').current() > 0
    for name, value in teacher.model.state_dict().items():
        assert runner.model.teacher.state_dict()[name].equal(value)

    saved = torch.load(f'{cfg.work_dir}/epoch_1.pth', weights_only=False)['state_dict']
    assert set(saved) == set(runner.model.state_dict())
    student = toy('det', 'maskd', **{
        'model.teacher_ckpt': weights,
        'model.distill.fpn.loss.tokens': f'{cfg.work_dir}/epoch_1.pth'})
    state = train(student).model.state_dict()
    for level in range(3):
        assert state[f'distiller.fpn.losses.{level}.mask_tokens.mask_token'].equal(
            saved[f'mask_modules.{level}.mask_token'])

    # Testing initialises nothing, and still meets the teacher.
    cfg.load_from = f'{cfg.work_dir}/epoch_1.pth'
    cfg.experiment_name += '_test'
    tester = Runner.from_cfg(cfg)
    tester.test()
    for name, value in teacher.model.state_dict().items():
        assert tester.model.teacher.state_dict()[name].equal(value)


def test_learning_lowers_both_terms(learner, batch):
    model = learner()
    images, samples = batch('det', model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history = []
    for _ in range(30):
        losses = model(images, samples, mode='loss')
        total, logged = model.parse_losses(losses)
        dice = logged['loss_token_dice'].item()
        history.append((dice, total.item() - dice))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert history[-1][0] < 0.8 * history[0][0]
    assert history[-1][1] < history[0][1] + 0.1


@pytest.mark.parametrize('kwargs, messages', [
    (dict(tap='nek'), [r"model\.tap='nek': the teacher .* did you mean 'neck'"]),
    (dict(tap='bbox_head'), [r"model\.tap='bbox_head': the teacher gives no maps .* tap the "]),
    (dict(num_tokens=0, dice_weight=-1), [r'model\.num_tokens=0: ', r'model\.dice_weight=-1: ']),
    (dict(teacher_ckpt='auto'), [r"model\.teacher_ckpt='auto': only a 'mmdet::"]),
    (dict(teacher='nowhere.py', num_tokens='6'), [r"model\.num_tokens='6': ",
                                                  r"model\.teacher='nowhere\.py': no such "]),
])
def test_problems_are_reported_together(learner, kwargs, messages):
    with pytest.raises(ConfigError) as caught:
        learner(**kwargs)
    for problem, message in zip(caught.value.problems, messages, strict=True):
        assert re.match(message, problem)


def test_a_missing_teacher_is_named(learner):
    with pytest.raises(ConfigError, match=r"^model\.teacher_ckpt='gone\.pth': no such file"):
        learner(teacher_ckpt='gone.pth').init_weights()


def test_published_weights_are_found(toy):
    init_default_scope('mmdet')
    name = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    model = MODELS.build(dict(type='MaskTokenLearner', teacher=name))
    assert model.teachers['teacher'].checkpoint.startswith('https://')
    assert len(model.mask_modules) == 5
    assert type(model.teacher) is type(build_network(name))

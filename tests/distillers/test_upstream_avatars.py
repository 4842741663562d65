"""Avatars of a perturbed input: ``perturb_at``."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope

from mmakd.utils.errors import ConfigError
from mmakd.visualization import read_avatar_maps
from tests.distillers.test_roi import FASTER, batch
from tests.distillers.test_roi import build as build_roi
from tests.losses.saved_for_backward import SavedForBackward

CONV_SEG = dict(perturb_at='decode_head.conv_seg')
SAMPLED = dict(type='AvatarVariance', estimator='sampled')
DROPOUT = dict(type='DropoutPerturbation', drop_rate=0.3)


@pytest.fixture
def build(toy):
    """Build a toy distiller whose task has ``perturb_at`` and changes of its loss."""

    def build(task, tap, perturb_at, criterion=None, **loss):
        cfg = toy(task, 'akd-cwd')
        name, = cfg.model.distill
        cfg.model.distill[name].update(tap=tap, perturb_at=perturb_at)
        loss['criterion'] = criterion or dict(type='FeatureMSELoss')
        for key, value in loss.items():
            cfg.model.distill[name].loss[key] = value  # replaced, not merged
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        distiller = MODELS.build(cfg.model)
        for module in distiller.teacher.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1):
                torch.nn.init.normal_(module.weight)  # mmseg's logits are 0 at the start
        return distiller

    return build


def images(number=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(number, 3, 64, 64, generator=generator)


def step(distiller, inputs=None):
    """Run both networks; give the task's loss module and its maps."""
    name, = distiller.distiller
    inputs = images() if inputs is None else inputs
    _, maps = distiller.run_with_teacher([name], inputs, None, mode='tensor')
    return distiller.distiller[name], maps[name]


def inputs_of(module, run):
    """What a module is called with while ``run`` runs."""
    seen = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run()
    handle.remove()
    return seen


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def test_an_avatar_is_the_module_on_its_perturbed_input(build):
    distiller = build('seg', 'decode_head.conv_seg', **CONV_SEG)
    conv = distiller.teacher.decode_head.conv_seg
    feature, = inputs_of(conv, lambda: distiller.teacher(images(), mode='tensor'))
    task, maps = step(distiller)
    perturbation = task.losses[0].perturbation
    avatar, = maps.upstream.draw(perturbation, generator())
    expected = conv(perturbation(feature, generator()))
    torch.testing.assert_close(avatar, expected)
    assert not avatar.requires_grad and not avatar.allclose(maps.teacher[0])


@pytest.mark.parametrize('uncertainty', [SAMPLED, dict(SAMPLED, rescale=None), None], ids=str)
@pytest.mark.parametrize('target', ['each', 'mean'])
@pytest.mark.parametrize('num_avatars', [1, 3])
def test_loss_of_a_neck_is_the_formula(build, num_avatars, target, uncertainty):
    """By hand: the backbone's maps are perturbed, and the neck gives each Avatar's levels."""
    distiller = build('det', 'neck', 'neck', perturbation=DROPOUT, num_avatars=num_avatars,
                      target=target, uncertainty=uncertainty, loss_weight=2.0)
    task, maps = step(distiller)
    seen = []
    for loss in task.losses:
        loss.perturbation.register_forward_hook(lambda *args: seen.append(args[2]))
    value = task(maps.student, maps.teacher, None, maps.upstream)

    of_backbone = distiller.teacher.backbone(images())
    # A second pass, for the criterion, draws the same.
    passes = 2 if uncertainty and num_avatars > 1 and target == 'each' else 1
    perturbed = torch.utils.data.default_collate([
        tuple(seen[begin:begin + len(of_backbone)])
        for begin in range(0, len(seen), len(of_backbone))])
    assert all(len(level) == passes * num_avatars for level in perturbed)
    avatars = [distiller.teacher.neck([level[k] for level in perturbed])
               for k in range(num_avatars)]
    expected = torch.zeros(())
    for index, (student, teacher) in enumerate(zip(maps.student, maps.teacher)):
        student = task.adapters[index](student)
        drawn = torch.stack([avatar[index] for avatar in avatars])
        weight = torch.ones(())
        if uncertainty:
            variance = (drawn - teacher).square().mean((0, 1, 3, 4)).view(1, -1, 1, 1)
            weight = variance.rsqrt()
            if uncertainty.get('rescale', 'teacher'):
                weight = weight * teacher.norm() / (weight * teacher).norm()
        if target == 'mean':
            drawn = drawn.mean(0, keepdim=True)
        expected = expected + 2 * (weight * (student - drawn)).square().mean()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    value.backward()
    assert all(p.grad.any() for p in task.adapters.parameters())


@pytest.mark.parametrize('perturbation', [
    dict(DROPOUT), dict(DROPOUT, fill='zero'),
    dict(type='ChannelDropoutPerturbation', drop_rate=0.3),
    dict(type='DropBlockPerturbation', drop_rate=0.2, block_size=3),
    dict(type='GaussianNoisePerturbation', std=0.4)], ids=str)
def test_closed_form_behind_a_1x1_convolution(build, perturbation):
    distiller = build('seg', 'decode_head.conv_seg', **CONV_SEG, perturbation=perturbation)
    task, maps = step(distiller)
    perturbation = task.losses[0].perturbation
    variance, = maps.upstream.variances(perturbation)
    source = generator()
    squares = torch.stack([(maps.upstream.draw(perturbation, source)[0] - maps.teacher[0])**2
                           for _ in range(1000)])
    error = squares.std(0) / len(squares)**0.5
    assert ((squares.mean(0) - variance).abs() <= 6 * error).all()
    assert (error < 0.2 * variance).all()  # else it shows nothing


def test_closed_form_is_the_convolution_of_squares(build):
    """p / (1 - p) conv(f^2, w^2): REFERENCES 8."""
    distiller = build('seg', 'decode_head.conv_seg', **CONV_SEG,
                      perturbation=dict(DROPOUT, fill='zero'))
    conv = distiller.teacher.decode_head.conv_seg
    feature, = inputs_of(conv, lambda: distiller.teacher(images(), mode='tensor'))
    task, maps = step(distiller)
    variance, = maps.upstream.variances(task.losses[0].perturbation)
    expected = 0.3 / 0.7 * torch.einsum('kc,nchw->nkhw', conv.weight[:, :, 0, 0]**2, feature**2)
    torch.testing.assert_close(variance, expected)
    task(maps.student, maps.teacher, None, maps.upstream)
    torch.testing.assert_close(task.losses[0].sigma[0].flatten(),
                               expected.mean((0, 2, 3)).sqrt())


def test_a_head_that_is_run_by_its_forward_method(build):
    distiller = build('det', 'bbox_head.retina_cls', 'bbox_head', perturbation=DROPOUT,
                      uncertainty=None)
    task, maps = step(distiller)
    perturbation = task.losses[0].perturbation
    avatars = maps.upstream.draw(perturbation, generator())
    necks, source = distiller.teacher.extract_feat(images()), generator()
    scores, _ = distiller.teacher.bbox_head([perturbation(level, source) for level in necks])
    torch.testing.assert_close(avatars, list(scores))
    assert 'forward' not in vars(distiller.teacher.bbox_head)


def test_levels_choose_maps(build):
    distiller = build('det', 'neck', 'neck', uncertainty=None)
    task, maps = step(distiller)
    whole = maps.upstream.draw(task.losses[0].perturbation, generator())
    task.levels = [2, 0]
    seen = []
    for loss in task.losses[:2]:
        loss.criterion.register_forward_hook(lambda module, args, out: seen.append(args[1]))
    task.losses, task.adapters = task.losses[:2], task.adapters[:2]
    for loss in task.losses:
        loss.reseed(0)
    task(maps.student, maps.teacher, None, maps.upstream)
    assert [part.shape for part in seen] == [whole[2].shape, whole[0].shape]


@pytest.mark.parametrize('uncertainty, target, of_four', [
    (None, 'each', 5), (SAMPLED, 'mean', 5), (SAMPLED, 'each', 9)])
def test_cost(build, uncertainty, target, of_four):
    """The module runs once in the teacher and K times more; sampling sigma may double that."""
    for number, times in (1, 2), (4, of_four):
        distiller = build('det', 'neck', 'neck', num_avatars=number, uncertainty=uncertainty,
                          target=target)
        runs = []

        def note(module, args, out, runs=runs):
            runs.append((type(module).__name__, out[0].requires_grad))

        distiller.teacher.neck.register_forward_hook(note)
        distiller.teacher.backbone.register_forward_hook(note)
        task, maps = step(distiller)
        task(maps.student, maps.teacher, None, maps.upstream)
        assert runs == [('ResNet', False)] + [('FPN', False)] * times


@pytest.mark.parametrize('criterion', ['ChannelWiseDivergence', 'FeatureMSELoss', 'PKDLoss'])
def test_memory_does_not_grow_with_the_number_of_avatars(build, criterion):
    kept = {}
    for number in 2, 8:
        distiller = build('det', 'neck', 'neck', dict(type=criterion), num_avatars=number,
                          uncertainty=SAMPLED)
        task, maps = step(distiller)
        with SavedForBackward() as saved:
            value = task(maps.student, maps.teacher, None, maps.upstream)
        kept[number] = saved.bytes
        del value
    assert kept[8] - kept[2] < 1024  # a few scalars


@pytest.mark.parametrize('tap, perturb_at', [
    ('roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_cls'),
    ('roi_head.bbox_head.fc_cls', 'roi_head.bbox_head')])
def test_roi_heads(tap, perturb_at):
    is_linear = tap == perturb_at
    model = build_roi(FASTER, FASTER, cls=dict(tap=tap, perturb_at=perturb_at, loss=dict(
        type='UncertaintyFeatureLoss', criterion=dict(type='FeatureMSELoss'), num_avatars=2,
        perturbation=DROPOUT, uncertainty=dict(
            type='AvatarVariance', estimator='closed_form' if is_linear else 'sampled'))))
    data = batch(model)
    torch.nn.init.normal_(model.teacher.roi_head.bbox_head.fc_cls.weight)
    losses = model(**data, mode='loss')
    losses['distill.loss_cls'].backward()
    assert model.roi_head.bbox_head.fc_cls.weight.grad.any()
    _, maps = model.run_with_teacher(['cls'], **data, mode='loss')
    task, upstream = model.distiller['cls'], maps['cls'].upstream
    perturbation = task.losses[0].perturbation
    avatar, = upstream.draw(perturbation, generator())
    head = model.teacher.roi_head.bbox_head
    (feature, ), _ = upstream.calls[0]
    if is_linear:
        torch.testing.assert_close(avatar, head.fc_cls(perturbation(feature, generator())))
        variance, = upstream.variances(perturbation)
        expected = F.linear(0.3 / 0.7 * (feature - feature.mean(0))**2, head.fc_cls.weight**2)
        torch.testing.assert_close(variance[..., 0, 0], expected)
    else:
        torch.testing.assert_close(avatar, head(perturbation(feature, generator()))[0])
        assert upstream.variances(perturbation) is None


@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'plain'])
@pytest.mark.parametrize('precision', [None, torch.bfloat16, torch.float32], ids=str)
def test_precision_is_that_of_the_teacher(build, precision, autocast):
    distiller = build('seg', 'decode_head.conv_seg', **CONV_SEG)
    distiller.teachers['teacher'].precision = precision
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        task, maps = step(distiller)
        with torch.autocast('cpu', enabled=False):
            avatar, = maps.upstream.draw(task.losses[0].perturbation, generator())
        value = task(maps.student, maps.teacher, None, maps.upstream)
    assert avatar.dtype == maps.teacher[0].dtype == (
        precision or (torch.bfloat16 if autocast else torch.float32))
    assert value.dtype == torch.float32 and value.isfinite()


def test_avatars_repeat_with_the_seed(build):
    distiller = build('det', 'neck', 'neck', uncertainty=SAMPLED, num_avatars=2)
    task, maps = step(distiller)
    state, values = torch.get_rng_state(), []
    for seed in 7, 7, 8:
        for loss in task.losses:
            loss.uncertainty[0].running_weight.zero_()
            loss.uncertainty[0].running_variance.zero_()
            loss.reseed(seed)
        values.append(task(maps.student, maps.teacher, None, maps.upstream).item())
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('task, tap, perturb_at, uncertainty', [
    ('seg', 'decode_head.conv_seg', 'decode_head.conv_seg', dict(type='AvatarVariance')),
    ('det', 'neck', 'neck', SAMPLED)])
def test_pictures(build, task, tap, perturb_at, uncertainty):
    distiller = build(task, tap, perturb_at, uncertainty=uncertainty).eval()
    image = dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)], data_samples=None)
    name, = distiller.distiller
    maps = read_avatar_maps(distiller, image, name)
    avatar = maps.avatars[0]
    assert avatar.shape == maps.deviation.shape == maps.teacher.shape
    assert not avatar.equal(maps.teacher)
    # An Avatar is about one deviation away.
    assert 0.5 < (avatar - maps.teacher).square().mean() / maps.deviation.square().mean() < 2


@pytest.mark.parametrize('perturb_at, loss, starts', [
    ('nek', {}, "perturb_at='nek': the teacher (RetinaNet) has no such module; did you mean "
                "'neck'"),
    ('backbone', {}, "perturb_at='backbone': the teacher's tap 'neck' is not inside that module"),
    ('neck.lateral_convs', {}, "perturb_at='neck.lateral_convs': the teacher's tap 'neck' is"),
    ('neck', {}, "loss.uncertainty.estimator='closed_form': the variance is known in closed form "
                 'only where'),
    ('neck', dict(_delete_=True, type='ChannelWiseDivergence'),
     "perturb_at='neck': the loss makes no Avatars"),
    (3, {}, 'perturb_at=3: the teacher'),
])
def test_bad_places_are_named(toy, perturb_at, loss, starts):
    cfg = toy('det', 'akd-cwd', **{'model.distill.fpn.loss': loss,
                                   'model.distill.fpn.perturb_at': perturb_at})
    init_default_scope('mmdet')
    with pytest.raises(ConfigError) as caught:
        MODELS.build(cfg.model)
    assert caught.value.problems[0].startswith(f'model.distill.fpn.{starts}')
    assert len(caught.value.problems) == 1


def test_places_in_a_roi_head_are_named():
    for perturb_at in 'roi_head', 'roi_head.bbox_roi_extractor':
        tap = 'roi_head.bbox_head.fc_cls' if perturb_at == 'roi_head' else perturb_at
        with pytest.raises(ConfigError, match=r'not the features of RoIs; .*roi_head.bbox_head'):
            build_roi(FASTER, FASTER, cls=dict(tap=tap, perturb_at=perturb_at, loss=dict(
                type='UncertaintyFeatureLoss', criterion=dict(type='FeatureMSELoss'))))

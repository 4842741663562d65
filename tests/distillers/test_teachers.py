"""Several teachers of one student, here a detector and a segmentor for a detector."""
import copy
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint

from mmakd.utils.errors import ConfigError
from tests.distillers.test_avatar_distiller import batch
from tests.integration.comparison import same

ROOT = Path(__file__).parents[2]
TEACHER = str(ROOT / 'configs/det/toy/teacher_retinanet_shapes.py')
SEGMENTOR = str(ROOT / 'configs/seg/toy/teacher_pspnet_shapes.py')
OTHER = dict(mean=[10., 20., 30.], std=[2., 3., 4.])
BACKBONE = dict(tap='backbone.layer2', teacher='other', resize=True,
                loss=dict(type='FeatureMSELoss'))


@pytest.fixture
def config(toy):
    """A detector with two teachers: ``config({'model.teacher.big.ckpt': 'big.pth'})``."""

    def load(changes=(), **options):
        cfg = toy('det', 'akd-cwd', **options)
        del cfg.model['teacher_ckpt']
        cfg.model.teacher = dict(
            big=dict(cfg=cfg.model.teacher, ckpt=None),
            other=dict(cfg=dict(cfg=SEGMENTOR, data_preprocessor=OTHER), ckpt=None))
        cfg.model.distill.fpn.teacher = 'big'
        cfg.model.distill.backbone = BACKBONE
        cfg.merge_from_dict(dict(changes))
        return cfg

    return load


def build(cfg):
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


@pytest.fixture
def distiller(config):
    return build(config())


def inputs_of(network, path='backbone'):
    """The inputs that a module gets from now on."""
    seen = []
    network.get_submodule(path).register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    return seen


def test_each_task_learns_from_its_own(config, distiller):
    losses = distiller(*batch(), mode='loss')
    for name, task in (('big', 'fpn'), ('other', 'backbone')):
        cfg = config()
        cfg.model.teacher = cfg.model.teacher[name].cfg
        cfg.model.teacher_ckpt = None
        cfg.model.distill = {task: dict(cfg.model.distill[task])}
        del cfg.model.distill[task]['teacher']
        alone = build(cfg)
        alone.load_state_dict({key: value for key, value in distiller.state_dict().items()
                               if key in alone.state_dict()})
        alone.teacher.load_state_dict(distiller.teachers[name].network.state_dict())
        expected = alone(*batch(), mode='loss')[f'distill.loss_{task}']
        assert expected > 0 and torch.equal(losses[f'distill.loss_{task}'], expected)


def test_each_runs_to_its_own_taps_on_its_own_images(distiller):
    big, other = (distiller.teachers[name].network for name in ('big', 'other'))
    of_big, of_other = inputs_of(big), inputs_of(other)
    necks, heads = inputs_of(big, 'neck'), inputs_of(other, 'decode_head')
    images, samples = batch()
    distiller(images, samples, mode='loss')
    assert of_big[0] is images and len(of_other) == 1
    student, teacher = distiller.data_preprocessor, other.data_preprocessor
    torch.testing.assert_close(of_other[0] * teacher.std + teacher.mean,
                               images * student.std + student.mean)
    assert len(necks) == 1 and not heads


@pytest.mark.parametrize('resting, ran', [('fpn', 'other'), ('backbone', 'big')])
def test_a_teacher_whose_tasks_rest_does_not_run(distiller, resting, ran):
    seen = {name: inputs_of(teacher.network) for name, teacher in distiller.teachers.items()}
    distiller.distiller[resting].weight_factor = 0.0
    losses = distiller(*batch(), mode='loss')
    assert [name for name, images in seen.items() if images] == [ran]
    assert losses[f'distill.loss_{resting}'] == 0


def test_precision_of_each(config):
    distiller = build(config({'model.teacher.other.precision': 'bfloat16'}))
    seen = {}
    for name, path in (('big', 'neck.lateral_convs.0.conv'), ('other', 'backbone.layer2.0.conv1')):
        distiller.teachers[name].network.get_submodule(path).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output.dtype}))
    distiller(*batch(), mode='loss')
    assert seen == dict(big=torch.float32, other=torch.bfloat16)


def test_teachers_are_no_part_of_the_model(config, distiller):
    own = {id(parameter) for parameter in distiller.parameters()}
    twin = copy.deepcopy(distiller)
    for name, teacher in distiller.teachers.items():
        assert not own & set(map(id, teacher.network.parameters()))
        assert twin.teachers[name].network is teacher.network
        assert not any(p.requires_grad for p in teacher.network.parameters())
    twin.to(torch.float16)
    distiller.double()
    assert {p.dtype for teacher in distiller.teachers.values()
            for p in teacher.network.parameters()} == {torch.float64}
    with pytest.raises(RuntimeError, match=r"model\.teachers\[name\]\.network, of 'big', 'other'"):
        _ = distiller.teacher


def test_building_draws_no_more_than_the_student(toy, config):
    build(toy('det', 'student'))
    expected = torch.rand(3)
    build(config())
    assert torch.equal(torch.rand(3), expected)


def test_one_teacher_may_have_a_name(config):
    cfg = config()
    del cfg.model.teacher['other'], cfg.model.distill['backbone'], cfg.model.distill.fpn['teacher']
    distiller = build(cfg)
    assert distiller.teacher is distiller.teachers['big'].network
    assert distiller(*batch(), mode='loss')['distill.loss_fpn'] > 0


def test_non_finite_maps_name_the_teacher(config):
    cfg = config({'model.distill.more': dict(BACKBONE, teacher='big')})
    distiller = build(cfg)
    torch.nn.init.constant_(distiller.teachers['other'].network.backbone.layer2[0].conv1.weight,
                            float('nan'))
    with pytest.raises(FloatingPointError) as caught:
        distiller(*batch(), mode='loss')
    assert "the teacher.other's tap 'backbone.layer2' (map 0)." in str(caught.value)
    assert 'teacher.big' not in str(caught.value)


@pytest.fixture
def checkpoints(distiller, tmp_path):
    """The keys of a checkpoint of each teacher, which no other network has."""
    paths = {}
    for seed, (name, teacher) in enumerate(distiller.teachers.items()):
        torch.manual_seed(seed)
        state = {key: torch.rand_like(value) if value.is_floating_point() else value
                 for key, value in teacher.network.state_dict().items()}
        save_checkpoint(dict(state_dict=state), str(tmp_path / f'{name}.pth'))
        paths[f'model.teacher.{name}.ckpt'] = str(tmp_path / f'{name}.pth')
    return paths


def test_each_is_loaded(config, checkpoints):
    distiller = build(config(checkpoints))
    twin = copy.deepcopy(distiller)
    distiller.init_weights()
    for name, teacher in distiller.teachers.items():
        state = torch.load(checkpoints[f'model.teacher.{name}.ckpt'])['state_dict']
        assert same(dict(teacher.network.state_dict()), dict(state))
        Path(checkpoints[f'model.teacher.{name}.ckpt']).unlink()
    twin.init_weights()


def test_all_checkpoints_are_checked(config, checkpoints):
    big, other = checkpoints
    distiller = build(config({big: checkpoints[other], other: 'gone.pth'}))
    with pytest.raises(ConfigError) as caught:
        distiller.init_weights()
    first, second = caught.value.problems
    assert first.startswith(f"{big}='{checkpoints[other]}': does not fit the teacher (RetinaNet)")
    assert first.endswith('or set teacher.big.strict=False to load what fits')
    assert second.startswith(f"{other}='gone.pth': no such file")
    build(config({big: checkpoints[other], 'model.teacher.big.strict': False})).init_weights()


def test_parts_are_inherited_from_each(config, checkpoints):
    parts = dict(big=['bbox_head.retina_reg'], other=['backbone.layer1'])
    cfg = config({**checkpoints, 'model.inherit': parts})
    cfg.model.student = dict(cfg=TEACHER)
    distiller = build(cfg)
    own = distiller.student.state_dict()
    before = {key: value.clone() for key, value in own.items()}
    distiller.init_weights()
    changed = 0
    for name, (part, ) in parts.items():
        given = torch.load(checkpoints[f'model.teacher.{name}.ckpt'])['state_dict']
        for key in own:
            if key.startswith(part) and key in given and given[key].shape == own[key].shape:
                assert torch.equal(own[key], given[key])
                changed += not torch.equal(own[key], before[key])
    assert changed > 10


@pytest.mark.parametrize('changes, problems', [
    ({'distill.fpn.teacher': None}, [
        "distill.fpn.teacher: missing; there are several teachers, name one of 'big', 'other'"]),
    ({'distill.fpn.teacher': 'bgi', 'distill.backbone.tap': 'backbon'}, [
        "distill.fpn.teacher='bgi': no such teacher; did you mean 'big'?",
        "distill.backbone.tap='backbon': the student ",
        "distill.backbone.tap='backbon': the teacher (EncoderDecoder)"]),
    ({'distill.backbone.teacher': 'big'}, [
        'teacher.other: no task uses it; remove it, or set '
        "teacher='other' in a task"]),
    ({'teacher.big.cfg': 'gone.py', 'teacher.other.cfg.decode_head.channels': 'x'}, [
        "teacher.big.cfg='gone.py': no such config", 'teacher.other.cfg.type=']),
    ({'teacher.big.ckpt': 'auto', 'teacher.other.precision': 'half', 'distill.fpn.tap': 'nek'}, [
        "teacher.big.ckpt='auto': only a 'mmdet::...'",
        "teacher.other.precision='half': must be None or one of float32",
        "distill.fpn.tap='nek': the student", "distill.fpn.tap='nek': the teacher"]),
    ({'teacher.big.chpt': 'x.pth', 'teacher.other.strict': 'no', 'teacher_ckpt': 'y.pth',
      'teacher_precision': 'bfloat16'}, [
        "teacher_ckpt='y.pth': the teachers have names; give each its own, as model.teacher.big",
        "teacher_precision='bfloat16': the teachers have names; give each its own, as model.teach",
        "teacher.big.chpt='x.pth': a named teacher has no such key; did you mean 'ckpt'?",
        "teacher.other.strict='no': must be bool"]),
    ({'teacher.third': dict(type='RetinaNet')}, [
        'teacher.third.cfg: missing; give dict(cfg=..., ckpt=...) for each named teacher']),
    ({'inherit': ['neck']}, ["inherit=['neck']: there are several teachers; say which"]),
    ({'inherit': dict(bgi=['neck'], other=['nek'])}, [
        "inherit.bgi=['neck']: no such teacher; did you mean 'big'?",
        "inherit.other=['nek']: the student (RetinaNet) has no module 'nek'"]),
])
def test_errors_name_the_key(config, changes, problems):
    cfg = config({f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(ConfigError) as caught:
        build(cfg)
    for problem, start in zip(caught.value.problems, problems, strict=True):
        assert problem.startswith(f'model.{start}')


def test_a_choice_where_there_is_none(toy):
    with pytest.raises(ConfigError, match=(
            r"^model\.distill\.fpn\.teacher='big': there is one teacher, and it has no name")):
        build(toy('det', 'akd-cwd', **{'model.distill.fpn.teacher': 'big'}))

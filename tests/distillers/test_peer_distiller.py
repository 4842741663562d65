"""Several students in one model: names, losses, gradients, predictions and errors."""
import copy
import random

import numpy as np
import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmakd.utils.errors import ConfigError
from tests.distillers.test_avatar_distiller import batch as boxes
from tests.integration.small_models import small_model

OURS = ('distiller.', 'peers.')
PEER = dict(psp='distill.loss_psp_from_slim_logits', slim='distill.loss_slim_from_psp_logits')


def batch(number=2):
    torch.manual_seed(1)
    samples = [SegDataSample(
        metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64)),
        gt_sem_seg=PixelData(data=torch.randint(7, (1, 64, 64)))) for _ in range(number)]
    return torch.randn(number, 3, 64, 64), samples


@pytest.fixture
def peers(model):
    return model('seg', 'peers')


def retinanets(toy):
    """Two RetinaNets of unlike depth, and their teacher."""
    init_default_scope('mmdet')
    student = toy('det', 'student').model
    deep = copy.deepcopy(student)
    deep.backbone.depth = 34
    task = dict(fpn=dict(tap='neck', loss=dict(type='ChannelWiseDivergence')))
    return dict(
        type='PeerDistiller', students=dict(a=student, b=deep), teacher_ckpt=None,
        teacher=toy('det', 'teacher').model, distill=dict(a=task, b=task),
        peer=dict(cls=dict(tap='bbox_head.retina_cls'),
                  fpn=dict(tap='neck', loss=dict(type='FeatureMSELoss'))))


def test_names_are_those_of_each_student(model, peers):
    plain = model('seg', 'student')
    names = [name for name, _ in peers.named_parameters()]
    own = [name for name, _ in plain.named_parameters()]
    assert names[:len(own)] == own
    assert all(name.startswith(OURS) for name in names[len(own):])
    state = peers.state_dict()
    assert [key for key in state if not key.startswith(OURS)] == list(plain.state_dict())
    assert [key for key in state if key.startswith('peers.slim.')] == [
        f'peers.slim.{key}' for key in peers.peers.slim.state_dict()]
    assert not any('teacher' in key for key in state)
    assert list(peers.students) == ['students.psp', 'students.slim']
    assert list(peers.distiller) == [
        'psp_logits', 'slim_logits', 'psp_from_slim_logits', 'slim_from_psp_logits']


def test_losses_of_the_first_keep_their_names_and_all_are_summed(model, peers):
    losses = peers(*batch(), mode='loss')
    plain = model('seg', 'student')(*batch(), mode='loss')
    own = [key for key in losses if not key.startswith(('distill.', 'slim.'))]
    assert own == list(plain)
    assert [key for key in losses if key.startswith('slim.')] == [f'slim.{key}' for key in own]
    total, log = peers.parse_losses(losses)
    parts = [log[key] for key in ('decode.loss_ce', 'slim.decode.loss_ce',
                                  *(key for key in log if key.startswith('distill.')))]
    assert len(parts) == 6 and all(part > 0 for part in parts)
    torch.testing.assert_close(total, sum(parts))


def test_peer_losses_are_divergences_of_the_others_fixed_probabilities(peers):
    logits = {}
    for name, student in zip(('psp', 'slim'), peers.students.values()):
        student.decode_head.conv_seg.register_forward_hook(
            lambda module, args, output, name=name: logits.update({name: output}))
    for task in peers.distiller.values():
        task.losses[0].loss_weight = 0.5
    losses = peers(*batch(), mode='loss')
    own = {name: value.detach().double().numpy() for name, value in logits.items()}
    p = {name: np.exp(value) / np.exp(value).sum(1, keepdims=True) for name, value in own.items()}
    students = dict(zip(('psp', 'slim'), peers.students.values()))
    for name, other in ('psp', 'slim'), ('slim', 'psp'):
        expected = (p[other] * np.log(p[other] / p[name])).sum(1).mean()
        assert losses[PEER[name]].item() == pytest.approx(0.5 * expected, rel=1e-4)
        peers.zero_grad()
        losses[PEER[name]].backward(retain_graph=True)
        assert students[name].backbone.stem[0].weight.grad.abs().sum() > 0
        assert all(weight.grad is None for weight in students[other].parameters())
        # softmax(S) - softmax(T), averaged
        gradient, = torch.autograd.grad(losses[PEER[name]], logits[name], retain_graph=True)
        np.testing.assert_allclose(
            gradient.numpy(), 0.5 * (p[name] - p[other]) / (p[name].size / 7), atol=1e-7)


def test_the_teacher_runs_once_as_far_as_the_deepest_tap(model):
    tap = {'model.distill.slim.logits.tap': 'backbone.layer2',
           'model.distill.slim.logits.adapter': dict(type='ConvAdapter')}
    peers = model('seg', 'peers', **tap)
    ran = []
    for part in 'backbone', 'decode_head.conv_seg':
        peers.teacher.get_submodule(part).register_forward_hook(
            lambda module, args, output, part=part: ran.append(part))
    peers(*batch(), mode='loss')
    assert ran == ['backbone', 'decode_head.conv_seg']
    del ran[:]
    peers.distiller.psp_logits.weight_factor = 0
    peers(*batch(), mode='loss')
    assert ran == ['backbone']
    del ran[:]
    peers.distiller.slim_logits.weight_factor = 0
    losses = peers(*batch(), mode='loss')
    assert not ran and losses[PEER['psp']] > 0 and losses['distill.loss_slim_logits'] == 0


def test_the_first_starts_and_steps_as_in_plain_training(toy):
    after = {}
    for name in 'student', 'peers':
        cfg = toy('seg', name)
        init_default_scope('mmseg')
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        network = MODELS.build(cfg.model)
        network.init_weights()
        state = {key: value for key, value in network.state_dict().items()
                 if not key.startswith(OURS)}
        inputs, samples = batch()
        torch.manual_seed(2)
        losses = network(inputs, samples, mode='loss')  # with the dropout of both heads
        after[name] = state, losses['decode.loss_ce'], torch.rand(1), random.random()
    for plain, ours in zip(*after.values()):
        assert plain.keys() == ours.keys() and all(
            torch.equal(plain[key], ours[key]) for key in plain) if isinstance(
                plain, dict) else plain == ours


def test_alike_students_start_apart(toy):
    student = toy('seg', 'student').model
    cfg = toy('seg', 'peers').model
    cfg.students = dict(a=student, b=student, c=student)
    cfg.distill = dict(a=cfg.distill.psp)
    init_default_scope('mmseg')
    peers = MODELS.build(cfg)
    peers.init_weights()
    assert len(peers.distiller) == 1 + 6
    weights = [network.backbone.stem[0].weight for network in peers.students.values()]
    for first, second in (0, 1), (0, 2), (1, 2):
        assert not torch.equal(weights[first], weights[second])


def test_copies_averages_and_modes_have_all_students(peers):
    average = ExponentialMovingAverage(peers)
    twin = average.module
    assert twin.teacher is peers.teacher
    for name, student in twin.students.items():
        assert student is not peers.students[name]
        assert {id(part) for part in student.parameters()} <= {
            id(part) for part in twin.parameters()}
    peers.train(False)
    assert not any(module.training for module in peers.modules())
    peers.double()
    assert {p.dtype for network in (*peers.students.values(), peers.teacher)
            for p in network.parameters()} == {torch.float64}


def test_state_of_a_plain_student_and_of_another_order(model, peers, toy):
    plain = model('seg', 'student')
    before = copy.deepcopy(peers.peers.state_dict())
    torch.nn.init.ones_(plain.decode_head.conv_seg.weight)
    peers.load_state_dict(plain.state_dict())
    assert (peers.decode_head.conv_seg.weight == 1).all()
    assert all(torch.equal(before[key], value) for key, value in peers.peers.state_dict().items())
    cfg = toy('seg', 'peers').model
    cfg.students = dict(slim=cfg.students.slim, psp=cfg.students.psp)
    other = MODELS.build(cfg)
    with pytest.raises(ConfigError, match=r"^model\.students: 'slim' is the first here, but not"):
        other.load_state_dict(peers.state_dict(), strict=False)


@torch.no_grad()
def test_predictions_of_each_student(peers):
    peers.eval()
    inputs, samples = batch()
    for step in peers.val_step, peers.test_step:
        found = step(dict(inputs=[image.add(128) for image in inputs],
                          data_samples=copy.deepcopy(samples)))
        data = peers.data_preprocessor(dict(
            inputs=[image.add(128) for image in inputs], data_samples=samples), False)
        for index, (name, student) in enumerate(zip(('psp', 'slim'), peers.students.values())):
            expected = student(data['inputs'], copy.deepcopy(data['data_samples']), mode='predict')
            for sample, wanted in zip(found, expected):
                own = (sample, *sample.peers)[index]
                assert own.student == name
                assert torch.equal(own.seg_logits.data, wanted.seg_logits.data)
                assert torch.equal(own.gt_sem_seg.data, wanted.gt_sem_seg.data)
    assert not torch.equal(found[0].seg_logits.data, found[0].peers[0].seg_logits.data)
    # Other modes are the first student's.
    assert torch.equal(peers(inputs), peers.student(inputs))
    assert not hasattr(peers(inputs, samples, mode='predict')[0], 'peers')


def test_detectors_of_unlike_depth(toy):
    model = MODELS.build(retinanets(toy))
    losses = model(*boxes(), mode='loss')
    assert {'loss_cls', 'b.loss_cls', 'distill.loss_b_fpn', 'distill.loss_a_from_b_cls',
            'distill.loss_b_from_a_fpn'} <= set(losses)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def test_roi_heads_run_on_the_rois_of_each_student(toy):
    init_default_scope('mmdet')
    student = small_model('faster_rcnn')
    task = dict(cls=dict(tap='roi_head.bbox_head.fc_cls', loss=dict(type='KLDivergence')))
    model = MODELS.build(dict(
        type='PeerDistiller', students=dict(a=student, b=student), teacher=student,
        teacher_ckpt=None, distill=dict(a=task, b=task)))
    _, maps = model.run_with_teacher(['a_cls', 'b_cls'], *boxes(), mode='loss')
    for of_task in maps.values():
        assert of_task.student[0].shape == of_task.teacher[0].shape
    rois = [len(of_task.student[0]) for of_task in maps.values()]
    assert all(rois)
    assert not torch.equal(maps['a_cls'].teacher[0], maps['b_cls'].teacher[0])


LOGITS = 'decode_head.conv_seg'
TASK = dict(tap=LOGITS, loss=dict(type='KLDivergence'))
BAD = {
    'no dict': (dict(students=['psp']), ["model.students=['psp']: expected two or more"]),
    'one': (dict(students=dict(psp='x')), ["model.students={'psp': 'x'}: expected two or more"]),
    'distill': (dict(distill={}), ['model.distill={}: expected named tasks of students']),
    'unknown student': (dict(distill=dict(psb=dict(logits=TASK), psp=dict(logits=TASK))), [
        "model.distill.psb: no such student; did you mean 'psp'?"]),
    'flat tasks': (dict(distill=dict(logits=TASK)), [
        "model.distill.logits: no such student; valid: 'psp', 'slim'"]),
    'no tasks': (dict(distill=dict(psp=dict(logits=TASK), slim=[TASK])), [
        'model.distill.slim=[']),
    'task': (dict(distill=dict(psp=dict(logits=dict(TASK, tap='decode_heed')))), [
        "model.distill.psp.logits.tap='decode_heed': the student (EncoderDecoder) has no such",
        "model.distill.psp.logits.tap='decode_heed': the teacher (EncoderDecoder) has no such"]),
    'same name': (dict(distill=dict(psp=dict(from_slim_logits=TASK))), [
        "model.peer.logits: its loss would be 'psp_from_slim_logits', as that of "
        'model.distill.psp.from_slim_logits; rename this task']),
    'peer': (dict(peer=[]), ['model.peer=[]: expected a dict of named tasks']),
    'no tap': (dict(peer=dict(logits=dict(tep=LOGITS))), ['model.peer.logits.tap: missing in {']),
    'peer keys': (dict(peer=dict(logits=dict(TASK, student_tap=LOGITS))), [
        f"model.peer.logits.student_tap='{LOGITS}': a peer task has no such key"]),
    'tap': (dict(peer=dict(logits=dict(tap='decode_head.conv'))), [
        "model.peer.logits.tap='decode_head.conv': the student 'psp' (EncoderDecoder) has no",
        "model.peer.logits.tap='decode_head.conv': the student 'slim' (EncoderDecoder) has no"]),
    'one of the taps': (dict(peer=dict(logits=dict(tap=dict(psp=LOGITS, slim='x')))), [
        "model.peer.logits.tap.slim='x': the student 'slim' (EncoderDecoder) has no such"]),
    'taps': (dict(peer=dict(logits=dict(tap=dict(psp=LOGITS)))), [
        f"model.peer.logits.tap={{'psp': '{LOGITS}'}}: give one path, or one for each of 'psp'"]),
    'peer loss': (dict(peer=dict(logits=dict(tap=LOGITS, loss=dict(type='KLDivergense')))), [
        "model.peer.logits.loss.type='KLDivergense': not registered; did you mean"]),
    'channels': (dict(peer=dict(backbone=dict(tap='backbone.layer1'))), [
        "model.peer.backbone.adapter=None: the student's map has 8 channels, the teacher's 6"]),
    'switch': (dict(skip_nonfinite=1), ['model.skip_nonfinite=1: must be bool']),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case, toy):
    changes, expected = BAD[case]
    cfg = toy('seg', 'peers').model.to_dict()
    init_default_scope('mmseg')
    with pytest.raises(ConfigError) as error:
        MODELS.build(dict(cfg, **changes))
    found = error.value.problems
    assert len(found) == len(expected), found
    for problem, start in zip(found, expected):
        assert problem.startswith(start), problem


def test_names_of_students(toy):
    cfg = toy('seg', 'peers').model
    psp = cfg.students.psp
    cfg.students = {'psp': psp, 'a-b': psp, 'gloss': psp, 'items': psp}
    init_default_scope('mmseg')
    with pytest.raises(ConfigError) as error:
        MODELS.build(cfg)
    assert [problem[:problem.index(':')] for problem in error.value.problems] == [
        'model.students.a-b', 'model.students.gloss', 'model.students.items',
        'model.distill.slim']


def test_students_of_other_classes_and_images(toy):
    cfg = toy('seg', 'peers').model
    cfg.students.slim.decode_head.num_classes = 5
    cfg.students.slim.data_preprocessor = dict(mean=[0.0, 0.0, 0.0])
    del cfg.distill['slim']
    init_default_scope('mmseg')
    with pytest.raises(ConfigError) as error:
        MODELS.build(cfg)
    images, classes = error.value.problems
    assert images.startswith('model.students.slim.data_preprocessor: mean, std or channel order '
                             "are not those of 'psp'")
    assert classes.startswith("model.peer.logits.adapter=None: the student's map has 7 channels, "
                              "the teacher's 5; set adapter='auto', or ")


def test_a_student_that_cannot_be_built(toy):
    cfg = toy('seg', 'peers').model
    cfg.students.slim.decode_head.type = 'FCNHeed'
    init_default_scope('mmseg')
    with pytest.raises(ConfigError, match=(
            r"^model\.students\.slim\.type='EncoderDecoder': cannot be built: .* did you mean "
            r"'FCNHead'")):
        MODELS.build(cfg)


def test_no_peer_task_inside_roi_heads(toy):
    init_default_scope('mmdet')
    student = small_model('faster_rcnn')
    task = dict(fpn=dict(tap='neck', loss=dict(type='ChannelWiseDivergence')))
    with pytest.raises(ConfigError) as error:
        MODELS.build(dict(
            type='PeerDistiller', students=dict(a=student, b=student), teacher=student,
            teacher_ckpt=None, distill=dict(a=task),
            peer=dict(cls=dict(tap='roi_head.bbox_head.fc_cls'))))
    assert error.value.problems == [
        "model.peer.cls.tap='roi_head.bbox_head.fc_cls': each student has RoIs of its own there; "
        "tap outside RoI heads, e.g. 'neck'"]

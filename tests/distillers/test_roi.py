"""RoI heads: the teacher's run on the student's proposals."""
import pytest
import torch
from mmdet.structures.bbox import bbox2roi
from mmdet.testing import demo_mm_inputs
from mmengine.registry import MODELS, init_default_scope

from mmakd.distillers.roi_branch import RoIBranch
from mmakd.utils.errors import ConfigError
from mmakd.utils.references import resolve_model

SMALL = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16))
EXTRACTOR = dict(out_channels=16)
BOX = dict(in_channels=16, fc_out_channels=32)
STANDARD = dict(SMALL, roi_head=dict(bbox_roi_extractor=EXTRACTOR, bbox_head=BOX))
MASK = dict(SMALL, roi_head=dict(
    bbox_roi_extractor=EXTRACTOR, bbox_head=BOX, mask_roi_extractor=EXTRACTOR,
    mask_head=dict(in_channels=16, conv_out_channels=16)))
FASTER = dict(cfg='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', **STANDARD)
MASK_RCNN = dict(cfg='mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', **MASK)
RETINANET = dict(
    cfg='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', backbone=SMALL['backbone'],
    neck=SMALL['neck'], bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1))


def cascade():
    """A list in a config is replaced as a whole, so the stages are taken from the stock one."""
    stock = resolve_model('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')
    stages = [dict(stage, **BOX) for stage in stock['roi_head']['bbox_head']]
    return dict(cfg='mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', **SMALL,
                roi_head=dict(bbox_roi_extractor=EXTRACTOR, bbox_head=stages))


MSE = dict(type='FeatureMSELoss')


def build(student, teacher, **distill):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(dict(type='AvatarDistiller', student=student, teacher=teacher,
                             teacher_ckpt=None, distill=distill))


def batch(model, with_mask=False):
    data = demo_mm_inputs(2, (3, 128, 128), num_items=[3, 2], num_classes=2, with_mask=with_mask)
    return model.data_preprocessor(data, True)


def rois_of_a_step(model, data):
    """Run a step and note what the extractors of both networks look at."""
    seen = {}
    handles = []
    for side in ('student', 'teacher'):
        for kind in ('bbox', 'mask'):
            extractor = getattr(getattr(model, side).roi_head, f'{kind}_roi_extractor', None)
            if extractor is None:
                continue
            for stage in extractor if isinstance(extractor, torch.nn.ModuleList) else [extractor]:
                handles.append(stage.register_forward_pre_hook(
                    lambda module, args, key=(side, kind): seen.setdefault(key, []).append(args[1])
                ))
    losses = model(**data, mode='loss')
    for handle in handles:
        handle.remove()
    return losses, seen


def test_the_teacher_looks_at_the_students_rois():
    model = build(FASTER, FASTER, cls=dict(tap='roi_head.bbox_head.fc_cls', loss=MSE),
                  reg=dict(tap='roi_head.bbox_head.fc_reg', loss=MSE))
    data = batch(model)
    losses, seen = rois_of_a_step(model, data)
    assert len(seen['student', 'bbox']) == len(seen['teacher', 'bbox']) == 1
    rois, = seen['student', 'bbox']
    assert torch.equal(seen['teacher', 'bbox'][0], rois)

    def predict(network):
        feature_maps = network.extract_feat(data['inputs'])
        return network.roi_head._bbox_forward(feature_maps, rois)

    # train mode changes nothing here but BatchNorm, which the stock config keeps in eval mode
    ours, theirs = predict(model.student), predict(model.teacher)
    for name, key in ('cls', 'cls_score'), ('reg', 'bbox_pred'):
        expected = (ours[key] - theirs[key]).square().mean()
        torch.testing.assert_close(losses[f'distill.loss_{name}'], expected)
    losses['distill.loss_cls'].backward()
    assert model.roi_head.bbox_head.fc_cls.weight.grad.any()


def test_equal_networks_agree_roi_by_roi():
    model = build(FASTER, FASTER, cls=dict(tap='roi_head.bbox_head.fc_cls', loss=MSE))
    data = batch(model)
    assert model(**data, mode='loss')['distill.loss_cls'] > 0
    model.teacher.load_state_dict(model.student.state_dict())
    assert model(**data, mode='loss')['distill.loss_cls'] < 1e-10


@pytest.mark.parametrize('stage', [0, 2])
def test_a_cascade_teaches_by_one_of_its_stages(stage):
    model = build(FASTER, cascade(), fpn=dict(tap='neck', loss=MSE), reg=dict(
        student_tap='roi_head.bbox_head.fc_reg',
        teacher_tap=f'roi_head.bbox_head.{stage}.fc_reg', loss=MSE))
    # One box for all classes against one for each.
    adapter = model.distiller['reg'].adapters[0]
    assert adapter.conv.weight.shape[:2] == (4, 320)
    ran = []
    for index, head in enumerate(model.teacher.roi_head.bbox_head):
        head.register_forward_hook(lambda *args, index=index: ran.append(index))
    losses, seen = rois_of_a_step(model, batch(model))
    assert ran == [stage]
    assert torch.equal(seen['teacher', 'bbox'][0], seen['student', 'bbox'][0])
    losses['distill.loss_reg'].backward()
    assert adapter.conv.weight.grad.any()


def test_every_stage_of_a_cascade_student_has_its_own_rois():
    distill = {f'cls{stage}': dict(student_tap=f'roi_head.bbox_head.{stage}.fc_cls',
                                   teacher_tap='roi_head.bbox_head.fc_cls', loss=MSE)
               for stage in range(3)}
    model = build(cascade(), FASTER, **distill)
    losses, seen = rois_of_a_step(model, batch(model))
    student, teacher = seen['student', 'bbox'], seen['teacher', 'bbox']
    assert len(student) == len(teacher) == 3
    for rois in student:
        assert any(torch.equal(rois, other) for other in teacher)
    assert len({losses[f'distill.loss_{name}'].item() for name in distill}) == 3


def test_masks():
    model = build(MASK_RCNN, MASK_RCNN, masks=dict(tap='roi_head.mask_head.conv_logits', loss=MSE))
    losses, seen = rois_of_a_step(model, batch(model, with_mask=True))
    assert torch.equal(seen['teacher', 'mask'][0], seen['student', 'mask'][0])
    assert ('teacher', 'bbox') not in seen
    assert losses['distill.loss_masks'] > 0


@pytest.mark.parametrize('loss', [
    MSE, dict(type='UncertaintyFeatureLoss', criterion=dict(type='ChannelWiseDivergence'))])
def test_no_roi_costs_nothing(loss):
    model = build(MASK_RCNN, MASK_RCNN, masks=dict(tap='roi_head.mask_head.conv_logits', loss=loss,
                                                   adapter=dict(type='ConvAdapter')))
    task = model.distiller['masks']
    empty = torch.zeros(0, 80, 28, 28)
    value = task([empty.requires_grad_()], [empty])
    value.backward()
    assert value == 0
    assert all(parameter.grad is not None for parameter in task.parameters())
    # sigma holds still
    for module in task.modules():
        if hasattr(module, 'running_weight'):
            assert module.running_weight == 0


def test_akd_on_rois():
    akd = dict(type='UncertaintyFeatureLoss', criterion=dict(type='DISTLoss'), num_avatars=2)
    model = build(FASTER, FASTER, cls=dict(tap='roi_head.bbox_head.fc_cls', loss=akd))
    loss = model(**batch(model), mode='loss')['distill.loss_cls']
    loss.backward()
    assert loss.isfinite()
    sigma, = model.distiller['cls'].losses[0].sigma
    assert sigma.shape == (1, 81, 1, 1) and sigma.isfinite().all()


def test_rpn_taps_run_no_roi_head():
    model = build(FASTER, FASTER, rpn=dict(tap='rpn_head.rpn_cls', loss=MSE))
    ran = []
    model.teacher.roi_head.bbox_head.register_forward_hook(lambda *args: ran.append(1))
    loss = model(**batch(model), mode='loss')['distill.loss_rpn']
    assert loss > 0 and not ran


@pytest.mark.parametrize('student, teacher, taps, problems', [
    (RETINANET, FASTER, ('bbox_head.retina_cls', 'roi_head.bbox_head.fc_cls'),
     ["student_tap='bbox_head.retina_cls'", "the student's RoIs", 'tap the box heads of both']),
    (FASTER, RETINANET, ('roi_head.bbox_head.fc_cls', 'bbox_head.retina_cls'),
     ["student_tap='roi_head.bbox_head.fc_cls'", 'tap the box heads of both']),
    (MASK_RCNN, MASK_RCNN, ('roi_head.mask_head.conv_logits', 'roi_head.bbox_head.fc_cls'),
     ['or the mask heads']),
    (FASTER, cascade, ('roi_head.bbox_head', 'roi_head.bbox_head'), ["'roi_head.bbox_head.0'"]),
    (FASTER, cascade, ('roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_cls'),
     ['teacher (CascadeRCNN) has no such module', 'fc_cls']),
])
def test_taps_that_do_not_fit(student, teacher, taps, problems):
    teacher = teacher() if callable(teacher) else teacher
    task = dict(student_tap=taps[0], teacher_tap=taps[1], loss=MSE)
    with pytest.raises(ConfigError) as caught:
        build(student, teacher, roi=task)
    for problem in ('model.distill.roi.', *problems):
        assert problem in str(caught.value)


def test_a_branch_runs_on_any_rois():
    model = build(FASTER, FASTER, fpn=dict(tap='neck', loss=MSE)).student
    rois = bbox2roi([torch.tensor([[0., 0., 50., 40.]])])
    seen = []
    model.roi_head.bbox_head.register_forward_hook(lambda m, args, output: seen.append(output))
    feature_maps = model.extract_feat(torch.zeros(1, 3, 128, 128))
    RoIBranch('bbox', None).run(model, feature_maps, rois)
    assert seen[0][0].shape == (1, 81)

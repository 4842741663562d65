# MGD with Avatars on the FPN; both RoI heads use the student's proposals.
_base_ = 'akd-cwd_faster-rcnn-r101_faster-rcnn-r50_fpn_2x_coco.py'
model = dict(
    teacher='mmdet::cascade_rcnn/'
    'cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py',
    inherit=['neck', 'rpn_head'],
    distill=dict(
        fpn=dict(
            loss=dict(
                criterion=dict(
                    _delete_=True,
                    type='MGDLoss',
                    alpha_mgd=2e-5,
                    lambda_mgd=0.65),
                loss_weight=1.0)),
        # The cascade predicts one box (4 outputs), mmdet's Faster R-CNN one per
        # class (320). An adapter maps between them; the authors changed the
        # student instead.
        roi_boxes=dict(
            student_tap='roi_head.bbox_head.fc_reg',
            teacher_tap='roi_head.bbox_head.0.fc_reg',
            adapter='auto',
            loss=dict(type='mmdet.SmoothL1Loss', loss_weight=1.0)),
        roi_classes=dict(
            student_tap='roi_head.bbox_head.fc_cls',
            teacher_tap='roi_head.bbox_head.0.fc_cls',
            loss=dict(type='DISTLoss'))))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))

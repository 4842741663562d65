# A GFL of the size of student_retinanet_shapes.py, which predicts distributions of its boxes.
_base_ = 'student_retinanet_shapes.py'
model = dict(
    type='GFL',
    bbox_head=dict(
        _delete_=True,
        type='GFLHead',
        num_classes=6,
        in_channels=32,
        stacked_convs=1,
        feat_channels=32,
        # The shapes are 15 to 50 pixels wide.
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=1,
            ratios=[1.0],
            strides=[8, 16, 32]),
        loss_cls=dict(
            type='QualityFocalLoss',
            use_sigmoid=True,
            beta=2.0,
            loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        reg_max=16,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(
        _delete_=True,
        assigner=dict(type='ATSSAssigner', topk=9),
        allowed_border=-1,
        pos_weight=-1),
    test_cfg=dict(min_bbox_size=0, nms=dict(iou_threshold=0.6)))

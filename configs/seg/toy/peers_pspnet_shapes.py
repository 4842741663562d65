# The student of student_pspnet_shapes.py and a narrower FCN, taught by plain CWD on
# the logits and by each other's class probabilities.
_base_ = 'student_pspnet_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
cwd = dict(
    logits=dict(
        tap='decode_head.conv_seg',
        loss=dict(type='ChannelWiseDivergence', tau=1.0, loss_weight=5.0)))
model = dict(
    _delete_=True,
    type='PeerDistiller',
    students=dict(
        psp={{_base_.model}},
        slim=dict(
            cfg='{{ fileDirname }}/student_pspnet_shapes.py',
            backbone=dict(base_channels=6, stem_channels=6),
            decode_head=dict(
                _delete_=True,
                type='FCNHead',
                in_channels=24,
                in_index=2,
                channels=24,
                num_convs=1,
                concat_input=False,
                dropout_ratio=0.1,
                num_classes=7,
                norm_cfg=dict(type='BN'),
                align_corners=False,
                loss_decode=dict(type='CrossEntropyLoss')))),
    teacher='{{ fileDirname }}/teacher_pspnet_shapes.py',
    teacher_ckpt='work_dirs/teacher_pspnet_shapes/iter_1100.pth',
    distill=dict(psp=cwd, slim=cwd),
    peer=dict(
        logits=dict(
            tap='decode_head.conv_seg',
            loss=dict(type='KLDivergence', tau=1.0, loss_weight=1.0))))
val_evaluator = dict(
    _delete_=True,
    type='PeerEvaluator',
    metrics=[dict(type='IoUMetric', iou_metrics=['mIoU'])])
test_evaluator = val_evaluator

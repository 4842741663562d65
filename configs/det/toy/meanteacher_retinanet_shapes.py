# The student of student_retinanet_shapes.py, taught by the running average of
# itself.
_base_ = 'student_retinanet_shapes.py'
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='AvatarDistiller',
    student={{_base_.model}},
    teacher='ema',
    distill=dict(
        cls=dict(
            tap='bbox_head.retina_cls',
            loss=dict(
                type='EntropyWeightedKDLoss',
                tau=1.0,
                gamma=0.0,
                foreground=True,
                loss_weight=0.3))))
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale={{_base_.image_size}}, keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            # The teacher's image is not distorted. Colours tell these shapes apart,
            # so the distortion is mild.
            dict(
                type='TwoViews',
                student=[
                    dict(
                        type='PhotoMetricDistortion',
                        brightness_delta=8,
                        contrast_range=(0.9, 1.1),
                        saturation_range=(0.9, 1.1),
                        hue_delta=1)
                ],
                pack=dict(type='PackDetInputs'))
        ]))
default_hooks = dict(
    ema_teacher=dict(type='EMATeacherHook', momentum=0.99, ramp_iters=200))

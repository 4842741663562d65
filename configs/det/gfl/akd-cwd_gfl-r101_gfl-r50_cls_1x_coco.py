# Compares class scores, for which MMRazor reports plain CWD.
_base_ = [
    '../../_base_/datasets/coco_detection.py',
    '../../_base_/schedules/schedule_1x.py',
    '../../_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    type='AvatarDistiller',
    student='mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    teacher='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
    distill=dict(
        classes=dict(
            tap='bbox_head.gfl_cls',
            loss=dict(
                type='UncertaintyFeatureLoss',
                criterion=dict(type='ChannelWiseDivergence', tau=1.0),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                num_avatars=1,
                loss_weight=5.0))))
default_hooks = dict(perturbation=dict(type='PerturbationHook'))

# The learning rate of mmdet's GFL, for 8 GPUs of 2 images.
optim_wrapper = dict(optimizer=dict(lr=0.01))

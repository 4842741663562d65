# The student is mmdet's own. The student of the published numbers also has centre
# sampling, normalised boxes and GIoU.
_base_ = [
    '../../_base_/datasets/coco_detection_ms.py',
    '../../_base_/schedules/schedule_2x.py',
    '../../_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    type='AvatarDistiller',
    student='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
    teacher='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
    distill=dict(
        fpn=dict(
            tap='neck',
            adapter=dict(type='ConvAdapter'),
            loss=dict(
                type='UncertaintyFeatureLoss',
                criterion=dict(type='ChannelWiseDivergence', tau=1.0),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                num_avatars=1,
                loss_weight=7.5))))
default_hooks = dict(perturbation=dict(type='PerturbationHook'))

# As mmdet trains FCOS, for 8 GPUs of 2 images.
param_scheduler = [
    dict(type='ConstantLR', factor=1.0 / 3, by_epoch=False, end=500),
    dict(type='MultiStepLR', milestones=[16, 22], gamma=0.1)
]
optim_wrapper = dict(
    optimizer=dict(lr=0.01),
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=35, norm_type=2))

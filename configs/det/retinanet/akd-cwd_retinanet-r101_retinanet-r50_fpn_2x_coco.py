_base_ = [
    '../../_base_/datasets/coco_detection.py',
    '../../_base_/schedules/schedule_2x.py',
    '../../_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    type='AvatarDistiller',
    student='mmdet::retinanet/retinanet_r50_fpn_2x_coco.py',
    teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
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

# The learning rate of mmdet's retinanet_r50_fpn_2x_coco, for 8 GPUs of 2 images.
optim_wrapper = dict(optimizer=dict(lr=0.01))

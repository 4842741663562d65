_base_ = [
    '../../_base_/datasets/coco_detection.py',
    '../../_base_/schedules/schedule_2x.py',
    '../../_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    type='AvatarDistiller',
    student='mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py',
    teacher='mmdet::reppoints/'
    'reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py',
    inherit=['neck', 'bbox_head'],
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
                loss_weight=7.5)),
        points_init=dict(
            tap='bbox_head.reppoints_pts_init_out',
            loss=dict(type='mmdet.SmoothL1Loss', beta=0.11, loss_weight=0.1)),
        points_refine=dict(
            tap='bbox_head.reppoints_pts_refine_out',
            loss=dict(type='mmdet.SmoothL1Loss', beta=0.11, loss_weight=0.2))))
default_hooks = dict(perturbation=dict(type='PerturbationHook'))

# The learning rate of mmdet's RepPoints, for 8 GPUs of 2 images.
optim_wrapper = dict(optimizer=dict(lr=0.01))

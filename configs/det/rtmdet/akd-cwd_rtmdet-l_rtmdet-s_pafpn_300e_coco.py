_base_ = [
    '../../_base_/datasets/coco_rtmdet.py',
    '../../_base_/schedules/schedule_rtmdet_300e.py',
    '../../_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    type='AvatarDistiller',
    student='mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
    teacher='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
    distill=dict(
        pafpn=dict(
            tap='neck',
            adapter=dict(type='ConvAdapter'),
            loss=dict(
                type='UncertaintyFeatureLoss',
                criterion=dict(type='ChannelWiseDivergence', tau=1.0),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                num_avatars=1,
                loss_weight=1.0))))

# RTMDet's own hooks.
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.0002,
        update_buffers=True,
        priority=49),
    dict(
        type='PipelineSwitchHook',
        switch_epoch=280,
        switch_pipeline=_base_.train_pipeline_stage2)
]
# No teacher in the last epochs, on plain images, as in MMYOLO's distillation of
# RTMDet.
default_hooks = dict(
    perturbation=dict(type='PerturbationHook'),
    distillation_schedule=dict(
        type='DistillationScheduleHook', stop=280, by_epoch=True))

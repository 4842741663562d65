_base_ = [
    '../../_base_/datasets/cityscapes_1024x1024.py',
    '../../_base_/schedules/schedule_segformer_160k.py',
    '../../_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    type='AvatarDistiller',
    student='mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    teacher='mmseg::segformer/segformer_mit-b4_8xb1-160k_cityscapes-1024x1024.py',
    distill=dict(
        logits=dict(
            tap='decode_head.conv_seg',
            loss=dict(
                type='UncertaintyFeatureLoss',
                criterion=dict(type='ChannelWiseDivergence', tau=1.0),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                num_avatars=1,
                loss_weight=5.0))))
default_hooks = dict(perturbation=dict(type='PerturbationHook'))

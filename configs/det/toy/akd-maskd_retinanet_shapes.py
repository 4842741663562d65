# As maskd_retinanet_shapes.py, with Avatars and sigma.
_base_ = 'maskd_retinanet_shapes.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='UncertaintyFeatureLoss',
                criterion=dict(
                    type='MasKDLoss',
                    tokens='work_dirs/maskd-tokens_retinanet_shapes/epoch_2.pth',
                    num_tokens=6,
                    student_masks_begin=32),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                loss_weight=7.0))))
default_hooks = dict(perturbation=dict(type='PerturbationHook'))

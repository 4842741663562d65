# As cwd_retinanet_shapes.py, with Avatars and sigma.
_base_ = 'cwd_retinanet_shapes.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='UncertaintyFeatureLoss',
                criterion=dict(type='ChannelWiseDivergence', tau=1.0),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                loss_weight=7.5))))
default_hooks = dict(perturbation=dict(type='PerturbationHook'))

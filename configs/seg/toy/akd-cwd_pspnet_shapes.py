# As cwd_pspnet_shapes.py, with Avatars and sigma.
_base_ = 'cwd_pspnet_shapes.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(
                _delete_=True,
                type='UncertaintyFeatureLoss',
                criterion=dict(type='ChannelWiseDivergence', tau=1.0),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                loss_weight=5.0))))
default_hooks = dict(perturbation=dict(type='PerturbationHook'))

# The logits as Gaussians, as wide as their Avatars vary, and how those of two positions relate.
_base_ = 'akd-cwd_pspnet_shapes.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(
                _delete_=True,
                type='DistributionCorrelationLoss',
                source='avatars',
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                loss_weight=0.1))))

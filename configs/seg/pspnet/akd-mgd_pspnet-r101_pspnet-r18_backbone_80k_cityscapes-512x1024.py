# MGD with Avatars on the last stage of the backbone, 512 to 2048 channels.
_base_ = 'akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(
    distill=dict(
        _delete_=True,
        backbone=dict(
            tap='backbone.layer4',
            loss=dict(
                type='UncertaintyFeatureLoss',
                criterion=dict(
                    type='MGDLoss', alpha_mgd=2e-5, lambda_mgd=0.75),
                perturbation=dict(type='DropoutPerturbation', drop_rate=0.1),
                uncertainty=dict(type='AvatarVariance'),
                num_avatars=1,
                loss_weight=1.0))))

# MGD alone, without Avatars and sigma.
_base_ = 'akd-mgd_pspnet-r101_pspnet-r18_backbone_80k_cityscapes-512x1024.py'
model = dict(
    distill=dict(
        backbone=dict(
            loss=dict(
                _delete_=True,
                type='MGDLoss',
                alpha_mgd=2e-5,
                lambda_mgd=0.75))))

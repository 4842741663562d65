# Both maps standardised over the batch, no Avatars: MMYOLO's setting for RTMDet.
_base_ = 'akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(
                perturb=False,
                uncertainty=dict(_delete_=True, type='BatchStatistics'),
                loss_weight=1.0))))

# Both maps standardised over the batch, no Avatars: MMYOLO's setting for RTMDet.
_base_ = 'akd-cwd_retinanet_shapes.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                perturb=False,
                uncertainty=dict(_delete_=True, type='BatchStatistics'),
                loss_weight=1.0))))

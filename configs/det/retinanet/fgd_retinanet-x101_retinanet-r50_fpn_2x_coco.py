# FGD alone, without Avatars and sigma.
_base_ = 'akd-fgd_retinanet-x101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='FGDLoss',
                temp=0.5,
                alpha_fgd=1e-3,
                beta_fgd=5e-4,
                gamma_fgd=5e-4,
                lambda_fgd=5e-6))))

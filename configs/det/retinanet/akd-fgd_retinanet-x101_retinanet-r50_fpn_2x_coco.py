# FGD with Avatars. As in FGD, neck and head start from the teacher, and gradients
# are clipped. The loss weights are those of the authors' config.
_base_ = 'akd-cwd_retinanet-x101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    inherit=['neck', 'bbox_head'],
    distill=dict(
        fpn=dict(
            loss=dict(
                criterion=dict(
                    _delete_=True,
                    type='FGDLoss',
                    temp=0.5,
                    alpha_fgd=1e-3,
                    beta_fgd=5e-4,
                    gamma_fgd=5e-4,
                    lambda_fgd=5e-6),
                loss_weight=1.0))))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))

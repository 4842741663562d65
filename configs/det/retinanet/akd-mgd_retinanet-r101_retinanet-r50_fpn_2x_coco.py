# MGD with Avatars. As in MGD, neck and head start from the teacher, and gradients
# are clipped.
_base_ = 'akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    inherit=['neck', 'bbox_head'],
    distill=dict(
        fpn=dict(
            loss=dict(
                criterion=dict(
                    _delete_=True,
                    type='MGDLoss',
                    alpha_mgd=2e-5,
                    lambda_mgd=0.65),
                loss_weight=1.0))))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))

# MGD alone, without Avatars and sigma.
_base_ = 'akd-mgd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='MGDLoss',
                alpha_mgd=2e-5,
                lambda_mgd=0.65))))

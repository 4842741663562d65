# MGD alone, without Avatars and sigma.
_base_ = 'akd-mgd_cascade-mask-rcnn-x101_faster-rcnn-r50_fpn-roi_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='MGDLoss',
                alpha_mgd=2e-5,
                lambda_mgd=0.65))))

# CWD alone, without Avatars and sigma.
_base_ = 'akd-cwd_faster-rcnn-r101_faster-rcnn-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='ChannelWiseDivergence',
                tau=1.0,
                loss_weight=7.5))))

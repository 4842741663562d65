# CWD alone, without Avatars and sigma.
_base_ = 'akd-cwd_mask-rcnn-r101_mask-rcnn-r50_fpn-mask_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='ChannelWiseDivergence',
                tau=1.0,
                loss_weight=7.5)),
        masks=dict(
            loss=dict(
                _delete_=True,
                type='ChannelWiseDivergence',
                tau=1.0,
                loss_weight=1.0))))

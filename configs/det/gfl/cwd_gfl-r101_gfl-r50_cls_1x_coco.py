# CWD alone, without Avatars and sigma.
_base_ = 'akd-cwd_gfl-r101_gfl-r50_cls_1x_coco.py'
model = dict(
    distill=dict(
        classes=dict(
            loss=dict(
                _delete_=True,
                type='ChannelWiseDivergence',
                tau=1.0,
                loss_weight=5.0))))

# CWD alone, without Avatars and sigma.
_base_ = 'akd-cwd_deeplabv3-r101_deeplabv3-r18_80k_cityscapes-512x1024.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(
                _delete_=True,
                type='ChannelWiseDivergence',
                tau=1.0,
                loss_weight=5.0))))

# CWD alone, without Avatars and sigma.
_base_ = 'akd-cwd_segformer-b4_segformer-b0_160k_cityscapes-1024x1024.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(
                _delete_=True,
                type='ChannelWiseDivergence',
                tau=1.0,
                loss_weight=5.0))))

# As akd-cwd_pspnet_shapes.py, with the entropy-weighted KD of ewkd_pspnet_shapes.py as
# a second task on the same logits.
_base_ = 'akd-cwd_pspnet_shapes.py'
model = dict(
    distill=dict(
        classes=dict(
            tap='decode_head.conv_seg',
            loss=dict(
                type='EntropyWeightedKDLoss',
                tau=4.0,
                gamma=-0.5,
                loss_weight=1.0))))

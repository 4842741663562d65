# Ablation: channels are dropped before the last convolution, not logits after it.
_base_ = '../akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(
    distill=dict(
        logits=dict(
            perturb_at='decode_head.conv_seg',
            loss=dict(
                perturbation=dict(
                    _delete_=True,
                    type='ChannelDropoutPerturbation',
                    drop_rate=0.1),
                num_avatars=4))))

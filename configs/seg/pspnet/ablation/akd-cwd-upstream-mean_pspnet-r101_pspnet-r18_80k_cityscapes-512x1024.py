# Ablation: the mean of the upstream Avatars is the target.
_base_ = 'akd-cwd-upstream_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(distill=dict(logits=dict(loss=dict(target='mean'))))

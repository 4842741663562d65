# Ablation: sigma only, the target is the teacher's own map.
_base_ = '../akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(distill=dict(logits=dict(loss=dict(perturb=False))))

# Ablation: Avatars and sigma, the default.
_base_ = '../akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'

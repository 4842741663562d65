# Ablation: Avatars and sigma, the default.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'

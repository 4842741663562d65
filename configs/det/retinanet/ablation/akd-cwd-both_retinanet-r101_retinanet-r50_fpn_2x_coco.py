# Ablation: Avatars and sigma, the method as it is.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'

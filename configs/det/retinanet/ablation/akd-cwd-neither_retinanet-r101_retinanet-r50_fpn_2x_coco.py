# Ablation: neither Avatars nor sigma, which is plain CWD.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(fpn=dict(loss=dict(perturb=False, uncertainty=None))))

# Ablation: the paper's formula to the letter, without rescaling.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(fpn=dict(loss=dict(uncertainty=dict(rescale=False)))))

# Ablation: PKD, at the weight that MMRazor gives it for RetinaNet.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(_delete_=True, type='PKDLoss', loss_weight=10.0))))

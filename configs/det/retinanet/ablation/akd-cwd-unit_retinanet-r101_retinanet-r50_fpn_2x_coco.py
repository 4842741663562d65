# Ablation: dropout to zero, and the normalised teacher map at unit RMS.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                perturbation=dict(fill='zero'),
                uncertainty=dict(rescale='unit')))))

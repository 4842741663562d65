# Ablation: the paper's formula to the letter: dropout to zero, no rescaling.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                perturbation=dict(fill='zero'),
                uncertainty=dict(rescale=None)))))

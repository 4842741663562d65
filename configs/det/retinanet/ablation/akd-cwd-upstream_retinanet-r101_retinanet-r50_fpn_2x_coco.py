# Ablation: the neck's input is perturbed, and sigma sampled at its output.
_base_ = '../akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            perturb_at='neck',
            loss=dict(
                uncertainty=dict(estimator='sampled')))))

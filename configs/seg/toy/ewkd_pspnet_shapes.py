# KD of the class probabilities, positions where the teacher is uncertain weighted up.
_base_ = 'cwd_pspnet_shapes.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(
                _delete_=True,
                type='EntropyWeightedKDLoss',
                tau=4.0,
                gamma=-0.5,
                loss_weight=1.0))))

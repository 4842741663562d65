# As cwd_retinanet_shapes.py, with MasKD. Learn its tokens first:
#   python tools/train.py configs/det/toy/maskd-tokens_retinanet_shapes.py
_base_ = 'cwd_retinanet_shapes.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='MasKDLoss',
                tokens='work_dirs/maskd-tokens_retinanet_shapes/epoch_2.pth',
                num_tokens=6,
                # The same share of the training as published for COCO.
                student_masks_begin=32,
                loss_weight=7.0))))

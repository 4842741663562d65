# MasKD with Avatars. Learn the tokens first, with
# maskd-tokens_retinanet-r101_fpn_2k_coco.py. A second task compares the boxes.
_base_ = 'akd-cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                criterion=dict(
                    _delete_=True,
                    type='MasKDLoss',
                    tokens='work_dirs/maskd-tokens_retinanet-r101_fpn_2k_coco/'
                    'iter_2000.pth',
                    num_tokens=6,
                    student_masks_begin=7000),
                loss_weight=7.0)),
        boxes=dict(
            tap='bbox_head.retina_reg',
            loss=dict(type='mmdet.L1Loss', loss_weight=1.0))))

# The authors' learning rate, twice that of mmdet's RetinaNet, needs clipping and
# a longer warm-up.
optim_wrapper = dict(
    optimizer=dict(lr=0.02), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=1000),
    dict(type='MultiStepLR', milestones=[16, 22], gamma=0.1)
]

# MasKD alone, without Avatars and sigma.
_base_ = 'akd-maskd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    distill=dict(
        fpn=dict(
            loss=dict(
                _delete_=True,
                type='MasKDLoss',
                tokens='work_dirs/maskd-tokens_retinanet-r101_fpn_2k_coco/'
                'iter_2000.pth',
                num_tokens=6,
                student_masks_begin=7000,
                loss_weight=7.0))))

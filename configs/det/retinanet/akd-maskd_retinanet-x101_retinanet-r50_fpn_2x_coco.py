# The stronger teacher, 41.0 AP, and its tokens.
_base_ = 'akd-maskd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(
    teacher='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
    distill=dict(
        fpn=dict(
            loss=dict(
                criterion=dict(
                    tokens='work_dirs/maskd-tokens_retinanet-x101_fpn_2k_coco/'
                    'iter_2000.pth')))))

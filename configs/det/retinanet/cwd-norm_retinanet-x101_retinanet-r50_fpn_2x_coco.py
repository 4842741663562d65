# The stronger teacher, 41.0 AP. The loss is MMYOLO's setting for RTMDet.
_base_ = 'cwd-norm_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(teacher='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py')

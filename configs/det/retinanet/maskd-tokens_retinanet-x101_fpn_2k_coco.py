# The stronger teacher, 41.0 AP.
_base_ = 'maskd-tokens_retinanet-r101_fpn_2k_coco.py'
model = dict(teacher='mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py')

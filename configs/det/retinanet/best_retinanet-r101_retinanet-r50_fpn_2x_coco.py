# The settings of det/toy/best_retinanet_shapes.py, which are proven on drawn shapes alone.
_base_ = 'cwd_retinanet-r101_retinanet-r50_fpn_2x_coco.py'
model = dict(distill=dict(fpn=dict(loss=dict(tau=8.0))))

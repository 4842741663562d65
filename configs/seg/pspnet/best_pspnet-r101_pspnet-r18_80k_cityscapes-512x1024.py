# The settings of seg/toy/best_pspnet_shapes.py, which are proven on drawn shapes alone.
_base_ = 'cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(distill=dict(logits=dict(loss=dict(tau=2.0))))

# Learns the tokens of MasKD: 2000 iterations of 16 images with a frozen teacher.
# The validation at the end is that of the masked teacher.
_base_ = [
    '../../_base_/datasets/coco_detection.py',
    '../../_base_/default_runtime.py'
]
custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
model = dict(
    type='MaskTokenLearner',
    teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    tap='neck',
    num_tokens=6)

train_cfg = dict(type='IterBasedTrainLoop', max_iters=2000, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=2000, eta_min=1e-6, by_epoch=False)
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=0.01, weight_decay=0.001))
auto_scale_lr = dict(enable=False, base_batch_size=16)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2000),
    visualization=dict(type='DetVisualizationHook'))
log_processor = dict(by_epoch=False)

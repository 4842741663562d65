# Detection for 24 epochs, 16 images per step.
_base_ = 'schedule_1x.py'
train_cfg = dict(max_epochs=24)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500),
    dict(type='MultiStepLR', milestones=[16, 22], gamma=0.1)
]

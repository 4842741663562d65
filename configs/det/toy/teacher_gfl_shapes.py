# A wider network that trains longer.
_base_ = 'student_gfl_shapes.py'
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, stacked_convs=2, feat_channels=64))
train_cfg = dict(max_epochs=10, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', T_max=10, convert_to_iter_based=True)
]

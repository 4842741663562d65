# A wider network that trains longer.
_base_ = 'student_pspnet_shapes.py'
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    decode_head=dict(in_channels=128, channels=64))
train_cfg = dict(max_iters=1100, val_interval=1100)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(type='PolyLR', power=0.9, end=1100, by_epoch=False)
]
# All four are read by online_pspnet_shapes.py.
default_hooks = dict(checkpoint=dict(interval=275, max_keep_ckpts=4))

_base_ = [
    '../../_base_/datasets/shapes_segmentation.py',
    '../../_base_/schedules/schedule_shapes_seg.py',
    '../../_base_/default_runtime.py'
]
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=8),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        base_channels=8,
        stem_channels=8,
        # Three stages at a quarter of the image size, which keeps small shapes.
        num_stages=3,
        strides=(1, 1, 1),
        dilations=(1, 1, 2),
        out_indices=(0, 1, 2),
        contract_dilation=True),
    decode_head=dict(
        type='PSPHead',
        in_channels=32,
        in_index=2,
        channels=32,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=7,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))

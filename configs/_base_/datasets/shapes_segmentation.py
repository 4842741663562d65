# The shapes of tools/make_shapes.py, in the layout of Cityscapes.
default_scope = 'mmseg'
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])

# CityscapesDataset could read these files, but accepts no other class names.
dataset = dict(
    type='BaseSegDataset',
    data_root='data/shapes/cityscapes/',
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelTrainIds.png',
    metainfo=dict(
        classes=('background', 'disk', 'ladybird', 'ring', 'crate', 'pennant',
                 'star'),
        palette=[(60, 60, 60), (220, 40, 40), (220, 220, 40), (40, 200, 40),
                 (40, 200, 200), (60, 60, 240), (220, 40, 220)]))

# Decoding small images takes less time than passing them between processes.
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs')
        ],
        **dataset))
val_dataloader = dict(
    batch_size=25,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(
            img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')
        ],
        **dataset))
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

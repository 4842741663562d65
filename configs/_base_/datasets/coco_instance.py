# COCO 2017 at 1333x800, with masks.
_base_ = 'coco_detection.py'

resize = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
load_annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'), load_annotations, resize,
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs')
        ]))
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'), resize, load_annotations,
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                           'scale_factor'))
        ]))
test_dataloader = val_dataloader

val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator

# AKD with labels for a tenth of the training images. From the others, which are of the same kind,
# the student learns what the teacher says.
_base_ = 'akd-cwd_retinanet_shapes.py'
labelled = _base_.train_dataloader.dataset
unlabelled = dict(
    type='CocoDataset',
    data_root=labelled.data_root,
    metainfo=labelled.metainfo,
    # Only its list of images is used.
    ann_file=labelled.ann_file,
    data_prefix=labelled.data_prefix,
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=_base_.image_size, keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs')
    ])
train_dataloader = dict(
    # Half of the eight images are labelled, so a step costs what it does without.
    batch_sampler=dict(type='TransferBatchSampler'),
    dataset=dict(
        _delete_=True,
        type='TransferSetDataset',
        labelled=dict(indices=160, **labelled),
        # All but the first 160.
        unlabelled=dict(indices=-1440, **unlabelled),
        ratio=0.5))
# An epoch is one pass over the labelled images: as many iterations as of the student.
train_cfg = dict(max_epochs=20, val_interval=20)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', T_max=20, convert_to_iter_based=True)
]
default_hooks = dict(checkpoint=dict(interval=5))

# AKD with labels for a tenth of the training images. From the others, which are of the same kind,
# the student learns what the teacher says.
_base_ = 'akd-cwd_pspnet_shapes.py'
labelled = _base_.train_dataloader.dataset
unlabelled = dict(
    type='BaseSegDataset',
    data_root=labelled.data_root,
    data_prefix=dict(img_path='leftImg8bit/train'),
    img_suffix=labelled.img_suffix,
    metainfo=labelled.metainfo,
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackSegInputs')
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

# As transfer_pspnet_shapes.py, with as many unlabelled images, one half of them of another look.
# Draw them first: python tools/make_shapes.py --data patchwork
_base_ = 'transfer_pspnet_shapes.py'
unlabelled = _base_.unlabelled
other = dict(unlabelled, data_root='data/patchwork/cityscapes/')
train_dataloader = dict(
    dataset=dict(
        unlabelled=[
            dict(indices=-720, **unlabelled),
            dict(indices=-720, **other)
        ]))

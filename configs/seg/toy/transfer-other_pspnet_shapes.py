# As transfer_pspnet_shapes.py, with unlabelled images of another look, which show none of the
# classes. Draw them first: python tools/make_shapes.py --data patchwork
_base_ = 'transfer_pspnet_shapes.py'
train_dataloader = dict(
    dataset=dict(
        unlabelled=dict(data_root='data/patchwork/cityscapes/')))

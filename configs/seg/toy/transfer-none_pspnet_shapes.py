# AKD with labels for a tenth of the training images, and no others: what the transfer
# sets of transfer_pspnet_shapes.py and its children are compared with.
_base_ = 'akd-cwd_pspnet_shapes.py'
train_dataloader = dict(dataset=dict(indices=160))

# Ablation: PKD. No weight is published for segmentation.
_base_ = '../akd-cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(
    distill=dict(
        logits=dict(
            loss=dict(_delete_=True, type='PKDLoss', loss_weight=5.0))))

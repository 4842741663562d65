# A teacher of another family; the logits have the same classes.
_base_ = 'cwd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024.py'
model = dict(
    teacher='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py'
)

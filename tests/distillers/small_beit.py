"""A network whose images have one size."""
from mmakd.utils.references import resolve_model


def beit(img_size, named_size, **preprocessor):
    """BEiT with UPerNet as shipped, but narrow."""
    head = dict(num_classes=7, norm_cfg=dict(type='BN'))
    return resolve_model(dict(
        cfg='mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py', pretrained=None,
        data_preprocessor=dict(size=named_size, **preprocessor),
        backbone=dict(img_size=(img_size, img_size), embed_dims=16, num_layers=4, num_heads=2,
                      out_indices=(0, 1, 2, 3)),
        neck=dict(embed_dim=16),
        decode_head=dict(head, in_channels=[16] * 4, channels=8),
        auxiliary_head=dict(head, in_channels=16, channels=8)))

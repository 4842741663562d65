"""Settings of the optimizer that were written for the plain student apply to the distilled one."""
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmakd.utils.references import find_config, resolve_model

from .small_models import SMALL_MODELS, distilled, small_model

SWIN = dict(embed_dims=12, num_heads=[1, 1, 1, 1], depths=[2, 2, 6, 2], init_cfg=None)
SWIN_MODEL = dict(
    cfg='mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    backbone=SWIN, decode_head=dict(in_channels=[12, 24, 48, 96], channels=8, num_classes=7),
    auxiliary_head=dict(in_channels=48, channels=8, num_classes=7))
BEIT = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(128, 128)),
    backbone=dict(type='BEiT', img_size=(128, 128), patch_size=16, embed_dims=16, num_layers=4,
                  num_heads=2, out_indices=(1, 3), qv_bias=True, drop_path_rate=0.1),
    decode_head=dict(type='FCNHead', in_channels=16, in_index=1, channels=8, num_classes=7))
ADAMW = dict(type='AdamW', lr=0.1, weight_decay=0.05)
LAYER_DECAY = dict(optimizer=ADAMW, constructor='LearningRateDecayOptimizerConstructor',
                   paramwise_cfg=dict(num_layers=4, decay_rate=0.9, decay_type='layer_wise'))


def settings(model, optim_wrapper):
    """Every setting of each parameter's group, by name of the parameter."""
    wrapper = build_optim_wrapper(model, optim_wrapper)
    groups = {id(parameter): {key: value for key, value in group.items()
                              if key not in ('params', 'param_names')}
              for group in wrapper.param_groups for parameter in group['params']}
    return {name: groups[id(parameter)] for name, parameter in model.named_parameters()
            if parameter.requires_grad}


def shipped(name):
    return Config.fromfile(find_config(SMALL_MODELS[name][0])).optim_wrapper


CASES = dict(
    fcos=lambda: (small_model('fcos'), shipped('fcos')),
    segformer=lambda: (small_model('segformer'), shipped('segformer')),
    rtmdet=lambda: (small_model('rtmdet'), shipped('rtmdet')),
    mask_rcnn=lambda: (small_model('mask_rcnn'), dict(
        optimizer=ADAMW, paramwise_cfg=dict(
            norm_decay_mult=0, bias_lr_mult=2, bias_decay_mult=0, bypass_duplicate=True,
            custom_keys={'backbone': dict(lr_mult=0.1), 'backbone.layer4': dict(lr_mult=0.5),
                         'roi_head.mask_head': dict(decay_mult=0)}))),
    swin=lambda: (resolve_model(SWIN_MODEL),
                  Config.fromfile(find_config(SWIN_MODEL['cfg'])).optim_wrapper),
    layer_wise=lambda: (BEIT, LAYER_DECAY),
)
TAPS = dict(swin='backbone', layer_wise='backbone')


@pytest.mark.parametrize('name', CASES)
def test_each_parameter_has_the_settings_of_plain_training(name):
    init_default_scope('mmdet' if name in ('fcos', 'rtmdet', 'mask_rcnn') else 'mmseg')
    model, optim_wrapper = CASES[name]()
    plain = settings(MODELS.build(model), optim_wrapper)
    tap = TAPS.get(name) or SMALL_MODELS[name][2]
    ours = settings(MODELS.build(distilled(model, tap)), optim_wrapper)
    # The case says something: not all parameters have the same settings.
    assert len({(group['lr'], group['weight_decay']) for group in plain.values()}) > 1
    assert {key: ours[key] for key in plain} == plain
    adapters = set(ours) - set(plain)
    assert adapters and all(key.startswith('distiller.') for key in adapters)

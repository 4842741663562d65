"""Small versions of models as mmdet and mmseg ship them, with the settings that are their own.

Whatever the shipped config has (frozen stages, SyncBN, auxiliary heads, drop path, parameter-wise
settings, EMA) is kept; only widths, depths and image sizes are cut.
"""
from collections.abc import Callable
from typing import Any

from mmengine.config import Config

from mmakd.utils.references import find_config, resolve_model

Toy = Callable[..., Config]
RESNET = dict(depth=18, base_channels=8, init_cfg=None)
FPN = dict(in_channels=[8, 16, 32, 64], out_channels=16)
DENSE_HEAD = dict(num_classes=6, in_channels=16, feat_channels=16, stacked_convs=1)
ROI_HEAD = dict(num_classes=6, in_channels=16)
RPN = dict(in_channels=16, feat_channels=16)
BOX_BRANCH = dict(bbox_roi_extractor=dict(out_channels=16),
                  bbox_head=dict(**ROI_HEAD, fc_out_channels=32))
MASK_BRANCH = dict(mask_roi_extractor=dict(out_channels=16),
                   mask_head=dict(**ROI_HEAD, conv_out_channels=16, num_convs=1))
SEGMENTOR = dict(
    pretrained=None, data_preprocessor=dict(size=(64, 64)),
    backbone=dict(RESNET, stem_channels=8),
    decode_head=dict(in_channels=64, channels=16, num_classes=7),
    auxiliary_head=dict(in_channels=32, channels=8, num_classes=7))

# The shipped config, what is cut, and a tap where it is distilled.
SMALL_MODELS: dict[str, tuple[str, dict[str, Any], str]] = dict(
    retinanet=('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', dict(
        backbone=RESNET, neck=FPN, bbox_head=DENSE_HEAD), 'neck'),
    fcos=('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', dict(
        backbone=RESNET, neck=dict(FPN, out_channels=64),
        # GroupNorm has 32 groups.
        bbox_head=dict(DENSE_HEAD, in_channels=64, feat_channels=64)), 'bbox_head.conv_cls'),
    faster_rcnn=('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', dict(
        backbone=RESNET, neck=FPN, rpn_head=RPN, roi_head=BOX_BRANCH),
        'roi_head.bbox_head.fc_cls'),
    mask_rcnn=('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', dict(
        backbone=RESNET, neck=FPN, rpn_head=RPN, roi_head=dict(**BOX_BRANCH, **MASK_BRANCH)),
        'neck'),
    rtmdet=('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', dict(
        backbone=dict(widen_factor=0.125, init_cfg=None),
        neck=dict(in_channels=[32, 64, 128], out_channels=32),
        bbox_head=dict(num_classes=6, in_channels=32, feat_channels=32)), 'neck'),
    yolox=('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', dict(
        data_preprocessor=dict(batch_augments=[dict(
            type='BatchSyncRandomResize', random_size_range=(64, 96), interval=2)]),
        backbone=dict(widen_factor=0.125), neck=dict(in_channels=[32, 64, 128], out_channels=16),
        bbox_head=dict(num_classes=6, in_channels=16, feat_channels=16)), 'neck'),
    pspnet=('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', SEGMENTOR,
            'decode_head.conv_seg'),
    deeplabv3=('mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py', SEGMENTOR,
               'backbone.layer4'),
    segformer=('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', dict(
        data_preprocessor=dict(size=(64, 64)),
        backbone=dict(embed_dims=8, num_layers=[1, 1, 1, 1], init_cfg=None),
        decode_head=dict(in_channels=[8, 16, 40, 64], channels=16, num_classes=7)),
        'decode_head.fusion_conv'),
)


def small_model(name: str) -> dict[str, Any]:
    """The config of a small model."""
    reference, cuts, _ = SMALL_MODELS[name]
    return resolve_model(dict(cfg=reference, **cuts))


def distilled(model: dict[str, Any], tap: str, **settings: Any) -> dict[str, Any]:
    """The config of a distiller whose teacher is as the student, with an adapter to train."""
    task = dict(tap=tap, adapter=dict(type='ConvAdapter'), loss=dict(
        type='UncertaintyFeatureLoss', criterion=dict(type='FeatureMSELoss'),
        perturbation=dict(type='DropoutPerturbation'), uncertainty=dict(type='AvatarVariance'),
        **settings))
    return dict(type='AvatarDistiller', student=model, teacher=model, teacher_ckpt=None,
                distill=dict(task=task))


def small_config(name: str, toy: Toy, **options: Any) -> Config:
    """A training of a small model on the drawn data, by the optimizer that it is shipped with.

    RTMDet and YOLOX have their augmentation, EMA and hooks too, which change in the second epoch.
    """
    reference, _, _ = SMALL_MODELS[name]
    task = 'det' if reference.startswith('mmdet') else 'seg'
    cfg = toy(task, 'student', **options)
    cfg.model = small_model(name)
    shipped = Config.fromfile(find_config(reference))
    cfg.optim_wrapper = shipped.optim_wrapper
    cfg.param_scheduler = []
    cfg.train_cfg.val_interval = 100
    if name == 'mask_rcnn':
        cfg.train_dataloader.dataset.pipeline[1].with_mask = True
    if name == 'rtmdet':
        cfg.custom_hooks = shipped.custom_hooks
        cfg.train_dataloader.dataset.pipeline = _resized(shipped.train_pipeline)
        *_, switch = cfg.custom_hooks
        switch.update(switch_epoch=1, switch_pipeline=_resized(shipped.train_pipeline_stage2))
    if name == 'yolox':
        cfg.custom_hooks = shipped.custom_hooks
        # From the second of two epochs on.
        cfg.custom_hooks[0].num_last_epochs = 0
        dataset = cfg.train_dataloader.dataset
        dataset.pipeline = shipped.train_dataset.dataset.pipeline
        cfg.train_dataloader.dataset = dict(
            type='MultiImageMixDataset', dataset=dataset,
            pipeline=_resized(shipped.train_pipeline))
    return cfg


def with_distillation(cfg: Config, name: str, **settings: Any) -> Config:
    """Have a distiller train the model of :func:`small_config`."""
    cfg.model = distilled(cfg.model, SMALL_MODELS[name][2], **settings)
    cfg.custom_imports = dict(imports=['mmakd'], allow_failed_imports=False)
    cfg.default_hooks.perturbation = dict(type='PerturbationHook')
    return cfg


def _resized(pipeline: list[Any]) -> list[Any]:
    """A pipeline for the drawn images, a tenth as large."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(cut, value))
        return value // 10 if value in (640, 1280, 416, -320) else value

    return cut(pipeline)

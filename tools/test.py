"""Test a detector or a segmentor, distilled or plain: the config's default_scope decides."""

import argparse
import os
import os.path as osp
from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmakd.checks.data_files import check_data
from mmakd.utils.cli import build_runner, config_errors_as_messages, load_config, make_parser
from mmakd.utils.errors import ConfigError

# The test-time augmentation of configs that have none: the image and its mirror image. The
# first view must not be flipped, since a segmentor is scored on that one's ground truth.
FLIPS = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
TTA_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
}
TTA_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'pad_shape', 'scale_factor',
                 'flip', 'flip_direction', 'reduce_zero_label')


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', help='path or address of the checkpoint')
    parser.add_argument('--out', metavar='PATH',
                        help='write the predictions: to one file if it ends in .pkl, for a '
                        'segmentor else as PNG label maps to a directory')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures of the predictions')
    parser.add_argument('--wait-time', type=float, default=2, metavar='SECONDS',
                        help='how long --show shows a picture (default: 2)')
    parser.add_argument('--tta', action='store_true',
                        help="augment at test time by the config's tta_model and tta_pipeline, "
                        'or where it has none by a horizontal flip')
    return parser.parse_args()


def enable_pictures(cfg: Config, args: argparse.Namespace) -> None:
    """Have the config's visualization hook draw every prediction."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if not hook:
        raise ConfigError(
            'default_hooks.visualization: missing, and --show and --show-dir need it; set it to '
            "dict(type='DetVisualizationHook') or dict(type='SegVisualizationHook')")
    hook.draw = True
    hook.interval = 1  # mmsegmentation 1.2 keeps to it here too, and has 50
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir:
        # An absolute path, since mmdet puts others below the work directory.
        show_dir = osp.abspath(args.show_dir)
        if hook.type.endswith('SegVisualizationHook'):
            cfg.visualizer.save_dir = show_dir
        else:
            hook.test_out_dir = show_dir


def enable_tta(cfg: Config) -> None:
    """Wrap the model and replace the test pipeline for test-time augmentation."""
    scope = cfg.get('default_scope')
    if 'tta_model' not in cfg and scope not in TTA_MODELS:
        raise ConfigError(f'tta_model: missing, and --tta has no default for {scope!r}')
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    pipeline = cfg.get('tta_pipeline')
    if pipeline is None:
        *pipeline, pack = deepcopy(dataset.pipeline)
        if scope == 'mmdet':
            pack.meta_keys = TTA_META_KEYS
        pipeline.append(dict(type='TestTimeAug', transforms=[FLIPS, [pack]]))
    dataset.pipeline = pipeline
    cfg.model = dict(**cfg.get('tta_model', TTA_MODELS.get(scope)), module=cfg.model)


def check_out(cfg: Config, out: str) -> None:
    """Check that predictions can be written to ``out``."""
    if not out.endswith(('.pkl', '.pickle')) and cfg.get('default_scope') != 'mmseg':
        raise ConfigError(f"--out={out!r}: a detector's predictions go to one file; name a .pkl")


def write_predictions(runner: Runner, out: str) -> None:
    """Have the Runner's metrics write the predictions to ``out``."""
    metrics = runner.test_evaluator.metrics
    if out.endswith(('.pkl', '.pickle')):
        dump = 'DumpDetResults' if runner.default_scope.scope_name == 'mmdet' else 'DumpResults'
        metrics.append(METRICS.build(dict(type=dump, out_file_path=out)))
        return
    writers = [metric for metric in metrics if hasattr(metric, 'output_dir')]
    if not writers:
        raise ConfigError('test_evaluator: no metric writes label maps to a directory; '
                          'name a .pkl file with --out or use an IoUMetric')
    os.makedirs(out, exist_ok=True)
    for metric in writers:
        metric.output_dir = out


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        enable_pictures(cfg, args)
    if args.tta:
        enable_tta(cfg)
    if args.out:
        check_out(cfg, args.out)
    check_data(cfg, 'test')
    runner = build_runner(cfg)
    if args.out:
        write_predictions(runner, args.out)
    runner.test()


if __name__ == '__main__':
    with config_errors_as_messages():
        main()

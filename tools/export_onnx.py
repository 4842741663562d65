"""Export the student of a checkpoint to ONNX: its backbone, neck and head, without the decoding.

The graph takes normalised images (N, 3, H, W) of one size and any number, and gives the outputs of
the head: of a segmentor the logits at the size of its feature map, of a dense detector the scores
and boxes of each level before they are decoded. The file's metadata have what a deployment needs
besides: mean, std, channel order and classes. Where onnxruntime is installed, its outputs are
compared with those of torch.
"""
from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmakd.distillers.plain_student import load_student
from mmakd.utils.checkpoint import local_path, read_checkpoint, trust
from mmakd.utils.cli import add_cfg_options, add_trust, config_errors_as_messages
from mmakd.utils.config_file import read_config
from mmakd.utils.errors import ConfigError, describe

_EPILOG = """\
needs torch >= 2.6, onnx and onnxscript: pip install 'mmakd[onnx]'.

exit status: 0; 1 with a message if something is wrong, or if the outputs of onnxruntime are not
those of torch; 2 for a wrong command line.

examples:
  python tools/export_onnx.py configs/seg/toy/akd-cwd_pspnet_shapes.py \\
      work_dirs/akd-cwd_pspnet_shapes/iter_700.pth student.onnx --size 96 96
  python tools/export_onnx.py my_retinanet.py epoch_24.pth retinanet.onnx --size 800 1344"""
# Of the largest value of an output.
_TOLERANCE = 1e-3


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a distilled or a plain student')
    parser.add_argument('checkpoint', help='path or address of its checkpoint')
    parser.add_argument('out', help='the file to write, e.g. student.onnx')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'),
                        help="size of the images (default: that of the test pipeline's Resize, "
                        'rounded up to what the network divides it by)')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')
    add_cfg_options(parser)
    add_trust(parser)
    args = parser.parse_args(argv)
    if args.size and min(args.size) < 1:
        parser.error('--size must be positive')
    return args


class RawOutputs(nn.Module):
    """Gives the outputs of a network's head as a flat tuple."""

    def __init__(self, network: BaseModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named_outputs(images).values())

    def named_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Name each output by its place: ``output_1_0`` is the second kind, first level."""
        named: dict[str, Tensor] = {}

        def walk(value: Any, name: str) -> None:
            if isinstance(value, Tensor):
                named[name] = value
            elif isinstance(value, (list, tuple)):
                for index, part in enumerate(value):
                    walk(part, f'{name}_{index}')

        walk(self.network(images, None, mode='tensor'), 'output')
        return named


def test_size(cfg: Config, student: Any) -> tuple[int, int]:
    """Find height and width of the images in testing."""
    dataset = (cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset.dataset
    scales = [step.scale for step in dataset.get('pipeline', ()) if 'scale' in step]
    if not scales:
        raise ConfigError('--size: missing, and the test pipeline has no Resize that would say '
                          'it; give height and width, e.g. --size 512 1024')
    width, height = scales[0] if isinstance(scales[0], (list, tuple)) else [scales[0]] * 2
    preprocessor = student.data_preprocessor
    divisor = (getattr(preprocessor, 'pad_size_divisor', 1)
               if hasattr(preprocessor, 'pad_size_divisor')
               else getattr(preprocessor, 'size_divisor', None) or 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def export(student: BaseModel, images: Tensor, path: Path, metadata: dict[str, str]
           ) -> dict[str, Tensor]:
    """Write the graph to a file; return torch's outputs by name.

    Raises:
        ConfigError: If the network cannot be exported.
    """
    network = RawOutputs(student).eval()
    with torch.no_grad():
        outputs = network.named_outputs(images)
    if not outputs:
        raise ConfigError(f'{type(student).__name__}: has no raw outputs: its head works on its '
                          'own detections; export a dense detector or a segmentor')
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it lists what torchvision would add
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            program: Any = torch.onnx.export(
                network, (images, ), dynamo=True, input_names=['images'],
                output_names=list(outputs), dynamic_shapes=({0: torch.export.Dim('batch')}, ),
                verbose=False)
    except Exception as error:
        raise ConfigError(f'{type(student).__name__}: torch cannot export it: '
                          f'{describe(error)}') from error
    program.model.metadata_props.update(metadata)
    with TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder, path.name)
        program.save(part, external_data=False)
        part.replace(path)
    return outputs


def deployment_metadata(student: Any, checkpoint: str) -> dict[str, str]:
    """Describe how images are prepared, and the classes."""
    preprocessor = student.data_preprocessor
    metadata = dict(channel_order='RGB' if getattr(preprocessor, '_channel_conversion', False)
                    else 'BGR')
    if getattr(preprocessor, '_enable_normalize', False):
        metadata.update({name: ', '.join(f'{value:g}' for value in
                                         getattr(preprocessor, name).flatten().tolist())
                         for name in ('mean', 'std')})
    meta = read_checkpoint(local_path(checkpoint), f'CKPT={checkpoint!r}').get('meta', {})
    classes = (meta.get('dataset_meta') or {}).get('classes') or ()
    return dict(metadata, classes=', '.join(classes))


def compare(path: Path, images: Tensor, outputs: dict[str, Tensor]) -> dict[str, float] | None:
    """Run the file by onnxruntime; return the largest difference of each output.

    Returns:
        dict[str, float] | None: Relative to the output's largest value; None without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    found = session.run(list(outputs), dict(images=images.numpy()))
    return {name: float(np.abs(value - output.numpy()).max() / output.abs().max().clamp(min=1e-6))
            for (name, output), value in zip(outputs.items(), found)}


def main(argv: Sequence[str] | None = None) -> int:
    """Export what the command line names.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.

    Returns:
        int: The exit status.
    """
    args = parse_args(argv)
    for path in args.trust:
        trust(path)
    out = Path(args.out)
    if out.exists() and not args.force:
        raise ConfigError(f'OUT={args.out!r}: exists; name another file, or replace it with '
                          '--force')
    cfg = read_config(args.config, args.cfg_options)
    student = load_student(cfg, args.checkpoint)
    size = tuple(args.size or test_size(cfg, student))
    # Two images: torch takes a size of 1 for a constant.
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    out.parent.mkdir(parents=True, exist_ok=True)
    outputs = export(student, images, out, deployment_metadata(student, args.checkpoint))
    differences = compare(out, images, outputs)
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table('output', 'shape', box=None, pad_edge=False)
    table.add_column('difference to torch', justify='right')
    for name, output in outputs.items():
        table.add_row(name, ' x '.join(map(str, ('N', *output.shape[1:]))),
                      '-' if differences is None else f'{differences[name]:.1e}')
    console.print(table)
    console.print(f'{out}: {out.stat().st_size / 1e6:.1f} MB, images N x 3 x {size[0]} x '
                  f'{size[1]}', soft_wrap=True)
    if differences is None:
        console.print('Not compared with torch: onnxruntime is not installed.')
    elif max(differences.values()) > _TOLERANCE:
        console.print(f"error: onnxruntime's outputs differ by more than {_TOLERANCE:g} of the "
                      'largest value', soft_wrap=True)
        return 1
    return 0


if __name__ == '__main__':
    with config_errors_as_messages():
        sys.exit(main())

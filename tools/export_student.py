"""Write one student of a PeerDistiller's checkpoint as a plain student's checkpoint.

The file holds the weights under the plain student's names, and the checkpoint's meta but for the
config, which is that of the distiller. Test it, go on training, infer or export with the plain
student's config. The first student needs no export: the distiller's checkpoint loads as it is.
"""
from __future__ import annotations

import argparse
import ast
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmakd.hooks.atomic_checkpoint_hook import AtomicLocalBackend
from mmakd.utils.checkpoint import read_checkpoint, trust
from mmakd.utils.cli import add_trust, config_errors_as_messages
from mmakd.utils.errors import ConfigError, suggest
from mmakd.utils.state_dict import OWN_KEYS

_EPILOG = """\
exit status: 0, or 1 with a message if there is no such student or checkpoint, 2 for a wrong
command line.

example:
  python tools/export_student.py work_dirs/peers_pspnet_shapes/iter_700.pth slim slim.pth"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CKPT', help='path of the checkpoint')
    parser.add_argument('name', metavar='NAME', help='name of the student, a key of '
                        "model.students in the distiller's config")
    parser.add_argument('out', metavar='OUT', help='file to write; one that exists is replaced')
    add_trust(parser)
    return parser.parse_intermixed_args(argv)


def find_students(meta: dict[str, Any]) -> list[str]:
    """Read the names of the students from the config in the meta, without running it."""
    for node in ast.walk(ast.parse(meta.get('cfg') or '')):
        if isinstance(node, ast.keyword) and node.arg == 'students':
            return [key.arg for key in getattr(node.value, 'keywords', ()) if key.arg]
    return []


def select_student(checkpoint: dict[str, Any], name: str, key: str) -> dict[str, torch.Tensor]:
    """Select the weights of a student, under its plain names.

    Raises:
        ConfigError: If the checkpoint, named by ``key``, is not of several students, or has no
            such one.
    """
    weights = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    peers = list(dict.fromkeys(part.split('.')[1] for part in weights or ()
                               if part.startswith('peers.')))
    if not weights or not peers:
        raise ConfigError(f'{key}: holds no students beside one; name a checkpoint of a '
                          'PeerDistiller, or take the file as it is')
    if name in peers:
        prefix = f'peers.{name}.'
        return {part.removeprefix(prefix): value for part, value in weights.items()
                if part.startswith(prefix)}
    known = {*peers, *find_students(checkpoint.get('meta', {}))}
    if name not in known:
        raise ConfigError(f'NAME={name!r}: no such student; {suggest(name, known)}')
    return {part: value for part, value in weights.items() if not part.startswith(OWN_KEYS)}


def main(argv: Sequence[str] | None = None) -> None:
    """Export the student that the command line names.

    Args:
        argv (Sequence[str], optional): The command line. Defaults to None, the process's.
    """
    args = parse_args(argv)
    for path in args.trust:
        trust(path)
    source, out = Path(args.checkpoint).expanduser(), Path(args.out).expanduser()
    if source.resolve() == out.resolve():
        raise ConfigError(f'OUT={args.out!r}: is the checkpoint itself; name another file')
    key = f'CKPT={args.checkpoint!r}'
    checkpoint = read_checkpoint(source, key)
    weights = select_student(checkpoint, args.name, key)
    meta = {name: value for name, value in checkpoint.get('meta', {}).items() if name != 'cfg'}
    file = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=weights), file)
    try:
        AtomicLocalBackend().put(file.getvalue(), out)
    except OSError as error:
        raise ConfigError(f'OUT={args.out!r}: cannot be written ({error})') from error
    print(f'{out}: {len(weights)} weights of {args.name}')


if __name__ == '__main__':
    with config_errors_as_messages():
        main()

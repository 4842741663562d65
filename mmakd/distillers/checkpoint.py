"""Loading a teacher's weights: verified, matched key by key, and never executed."""
import copy
import hashlib
import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer, print_log
from torch import nn

from ..config import ConfigError

_SHOWN_KEYS = 6


def load_teacher_checkpoint(model: nn.Module, checkpoint: str, strict: bool = True) -> None:
    """Load a checkpoint into a teacher.

    Args:
        model (nn.Module): The teacher.
        checkpoint (str): Path or URL. Where the file name ends in ``-<8 hex>.pth``, the SHA-256 of
            the file must begin with these digits. What belongs to a distiller is left out, so a
            distilled student can teach.
        strict (bool): Whether missing and unexpected keys are an error, not a warning. Defaults
            to True.

    Raises:
        ConfigError: If the file is missing, damaged, no checkpoint, or of another model.
    """
    key = f'model.teacher_ckpt={str(checkpoint)!r}'
    path = _local_path(str(checkpoint), key)
    _check_hash(path, key)
    state_dict = _read_state_dict(path, key)
    for name in [name for name in state_dict if name.startswith('distiller.')]:
        del state_dict[name]
    _rename_keys(model, state_dict)
    problem = _mismatch(model, state_dict)
    if problem:
        message = (f'{key}: does not fit the teacher ({type(model).__name__}): {problem}. Name '
                   'the checkpoint of this very config')
        if strict:
            raise ConfigError(f'{message}, or set teacher_strict=False to load what fits')
        print_log(message, 'current', level=logging.WARNING)
        own = model.state_dict()
        for name in [name for name, value in state_dict.items()
                     if name not in own or own[name].shape != value.shape]:
            del state_dict[name]
    model.load_state_dict(state_dict, strict=False)
    print_log(f'Teacher loaded from {path}', 'current')


def _local_path(checkpoint: str, key: str) -> Path:
    if not checkpoint.startswith(('http://', 'https://')):
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            what = 'a directory' if path.is_dir() else 'no such file'
            raise ConfigError(f'{key}: {what}; train the teacher first or name an existing '
                              f'checkpoint (a relative path starts at {Path.cwd()})')
        return path
    path = Path(torch.hub.get_dir(), 'checkpoints', checkpoint.rsplit('/', 1)[1])
    if get_local_rank() == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading the teacher to {path}', 'current')
        try:
            # Writes to a temporary file and renames it, so a broken download is never kept.
            torch.hub.download_url_to_file(checkpoint, str(path))
        except OSError as error:
            raise ConfigError(f'{key}: download failed ({error}); fetch it by other means to '
                              f'{path}, or name a local file') from error
    barrier()
    return path


def _check_hash(path: Path, key: str) -> None:
    expected = re.search(r'-([0-9a-f]{8})\.pth$', path.name)
    if expected is None:
        return
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    if not sha256.hexdigest().startswith(expected[1]):
        raise ConfigError(
            f'{key}: the SHA-256 of {path} begins with {sha256.hexdigest()[:8]}, not with '
            f'{expected[1]} as its name says; the file is damaged or was renamed: delete it and '
            'fetch it again')


class _Ignored:
    """Stands in for what a checkpoint holds beside weights, so that loading it has no effect.

    MMEngine's own ``HistoryBuffer`` would put the functions that it is loaded with into a table
    which all its instances share.
    """

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _harmless_globals() -> list[Callable | tuple[Callable, str]]:
    """List what MMEngine's checkpoints hold beside tensors: logged numbers, which are ignored."""
    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    dtypes = [type(np.dtype(name)) for name in ('float32', 'float64', 'int32', 'int64', 'uint32')]
    ignored = [f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}', 'builtins.getattr']
    return [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar, *dtypes,
            *((_Ignored, name) for name in ignored)]


def _read_state_dict(path: Path, key: str) -> dict[str, torch.Tensor]:
    # Before torch 2.5 there is no such list, and files with logs in them are refused.
    allow = getattr(torch.serialization, 'safe_globals', nullcontext)
    try:
        with allow(_harmless_globals()):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        reason = str(error).strip().split('\n')[0][:200]
        raise ConfigError(f'{key}: not a readable checkpoint, truncated or holding more than '
                          f'weights ({reason}); delete {path} and fetch it again') from error
    if isinstance(checkpoint, dict):
        checkpoint = checkpoint.get('state_dict', checkpoint)
    if not isinstance(checkpoint, dict) or not checkpoint or not all(
            isinstance(value, torch.Tensor) for value in checkpoint.values()):
        raise ConfigError(f'{key}: holds no state_dict; name a checkpoint that MMEngine saved')
    return checkpoint


def _rename_keys(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Let modules rename the keys of their early versions in place, as in ``load_state_dict``."""
    metadata = getattr(state_dict, '_metadata', {})
    for name, module in copy.deepcopy(model).named_modules():
        module._load_from_state_dict(state_dict, f'{name}.' if name else '',
                                     metadata.get(name, {}), False, [], [], [])


def _mismatch(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> str:
    own = model.state_dict()
    groups = {
        'missing': [name for name in own
                    if name not in state_dict and not name.endswith('num_batches_tracked')],
        'unexpected': [name for name in state_dict if name not in own],
        'of another shape': [
            f'{name} {tuple(state_dict[name].shape)} instead of {tuple(own[name].shape)}'
            for name in own if name in state_dict and own[name].shape != state_dict[name].shape
        ]
    }
    return '; '.join(f'{len(names)} keys {what}: {_shorten(names)}'
                     for what, names in groups.items() if names)


def _shorten(names: list[str]) -> str:
    return ', '.join(names[:_SHOWN_KEYS] + ['...'] * (len(names) > _SHOWN_KEYS))

"""Read checkpoint files: download them completely, verify them, and run no code in them."""
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from .dist import local_rank, same_on_all_ranks
from .errors import ConfigError, suggest

# Since 2.6 torch reads MMEngine's logs, whose functions have other names in a file than in NumPy,
# and runs no TorchScript program that a file holds (CVE-2025-32434).
TORCH_READS_SAFELY = torch.__version__ >= '2.6'
# torch's own switch, for scripts without the option --trust.
_TRUST_ALL = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_MODEL_TABLES = {
    'open-mmlab': get_external_models, 'openmmlab': get_external_models,
    'torchvision': get_torchvision_models, 'modelzoo': get_torchvision_models,
    'mmcls': get_mmcls_models}
_trusted: set[Path] = set()


def trust(path: str | Path) -> None:
    """Allow a file to hold more than weights; reading it then runs any code in it."""
    _trusted.add(Path(path).expanduser().resolve())


def is_address(checkpoint: str) -> bool:
    """Tell whether a checkpoint, a path or a URL, must be downloaded."""
    return checkpoint.startswith(('http://', 'https://'))


def local_path(checkpoint: str) -> Path:
    """Return the local path of a checkpoint, a path or a URL, once it is downloaded."""
    if is_address(checkpoint):
        return Path(torch.hub.get_dir(), 'checkpoints', checkpoint.rsplit('/', 1)[1])
    return Path(checkpoint).expanduser()


def fetch(checkpoint: str, key: str) -> None:
    """Download a checkpoint, once on each machine, unless it is a file or in torch's cache.

    All ranks of a distributed training must call this together.

    Args:
        checkpoint (str): Path or URL. Where the name of a URL ends in ``-<8 hex>.pth``, the
            SHA-256 of the file must begin with these digits.
        key (str): The config key and its value, for messages; so in the other functions.

    Raises:
        ConfigError: On all ranks, if it cannot be downloaded or its hash is wrong.
    """
    if is_address(checkpoint):
        with same_on_all_ranks():
            if local_rank() == 0:
                _fetch(checkpoint, local_path(checkpoint), key)


def read_checkpoint(path: Path, key: str, map_location: Any = 'cpu') -> Any:
    """Read all contents of a checkpoint file, without running code in it.

    Raises:
        ConfigError: If the file is missing or damaged, or holds something that would run code.
    """
    if not path.is_file():
        what = 'a directory' if path.is_dir() else 'no such file'
        raise ConfigError(f'{key}: {what}; name an existing checkpoint (a relative path starts at '
                          f'{Path.cwd()})')
    is_trusted = path.resolve() in _trusted or os.getenv(_TRUST_ALL, '0').lower() in (
        '1', 'y', 'yes', 'true')
    if not is_trusted and not TORCH_READS_SAFELY:
        raise ConfigError(
            f'{key}: torch {torch.__version__} cannot read checkpoints without executing what is '
            'in them; install torch >= 2.6 or, if you trust the origin of the file, allow it with '
            f'--trust {path}, or of all files with the environment variable {_TRUST_ALL}=1')
    try:
        _check_archive(path)
        if is_trusted:
            return torch.load(path, map_location=map_location, weights_only=False)
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        refused = re.search(r'GLOBAL ([\w.]+)|(getattr\(.*\))|(TorchScript)', str(error))
        if refused:
            what = next(filter(None, refused.groups()))
            raise ConfigError(
                f'{key}: holds more than weights ({what}), which would have to be executed; if '
                f'you trust its origin, allow it with --trust {path}, or by '
                'mmakd.utils.checkpoint.trust(...) before it is read') from error
        reason = str(error).strip().split('\n')[0][:200]
        raise ConfigError(f'{key}: not a readable checkpoint, empty, truncated or damaged '
                          f'({reason}); delete {path} and fetch it again, or name '
                          'another') from error


def read_state_dict(checkpoint: str, key: str) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, a path or a URL, by name.

    All ranks of a distributed training must call this together.

    Raises:
        ConfigError: On all ranks, if on one of them the file is missing, is damaged, or holds no
            weights or more than weights.
    """
    fetch(checkpoint, key)
    with same_on_all_ranks():
        content = read_checkpoint(local_path(checkpoint), key)
        if isinstance(content, dict):
            content = content.get('state_dict', content)
        if not isinstance(content, dict) or not content or not all(
                isinstance(value, torch.Tensor) for value in content.values()):
            raise ConfigError(f'{key}: holds no state_dict; name a checkpoint that MMEngine saved')
    return content


def read_checkpoints_safely(load_from: str | None = None) -> None:
    """Make MMEngine read files and addresses this way, to resume and for pretrained weights.

    Messages name the key ``load_from`` where the file is the one given.
    """

    def load_from_verified(checkpoint: str, map_location: Any = None, **kwargs: Any) -> Any:
        # A file that is there may be what a training goes on from, or an init_cfg's.
        kind = 'checkpoint' if Path(checkpoint).expanduser().is_file() else 'pretrained weights'
        key = f'load_from={checkpoint!r}' if checkpoint == load_from else f'{kind} {checkpoint!r}'
        source = _find_address(checkpoint, key)
        if not is_address(source):
            # Perhaps on one rank alone, as by CheckpointHook.
            return read_checkpoint(local_path(source), key, map_location)
        fetch(source, key)
        with same_on_all_ranks():
            content = read_checkpoint(local_path(source), key, map_location)
        if checkpoint.startswith('mmcls://'):  # weights of a classifier
            weights = content.get('state_dict', content)
            return {name.removeprefix('backbone.'): value for name, value in weights.items()
                    if name.startswith('backbone.')}
        return content

    schemes = ['', 'http://', 'https://', *(f'{scheme}://' for scheme in _MODEL_TABLES)]
    CheckpointLoader.register_scheme(schemes, loader=load_from_verified, force=True)


def _find_address(checkpoint: str, key: str) -> str:
    """Look up names such as ``'open-mmlab://resnet18_v1c'`` in MMEngine's tables."""
    scheme, _, name = checkpoint.partition('://')
    if scheme not in _MODEL_TABLES:
        return checkpoint
    try:
        table = _MODEL_TABLES[scheme]()
    except ImportError as error:
        raise ConfigError(f'{key}: the name cannot be looked up ({error}); install what is '
                          'missing, or give the path or the URL of the file') from error
    if _MODEL_TABLES[scheme] is get_external_models:
        name = get_deprecated_model_names().get(name, name)
    if name not in table:
        raise ConfigError(f'{key}: unknown name; {suggest(name, table)}')
    return table[name]


def _fetch(address: str, path: Path, key: str) -> None:
    what = f'{path} is damaged'
    try:
        if path.is_file():
            _check_whole(path)
            return
        what = f'download of {address} failed'
        print_log(f'Downloading {address} to {path}', 'current')
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder, path.name)
            torch.hub.download_url_to_file(address, str(part))
            _check_whole(part)  # a server that breaks off is no error to torch
            part.replace(path)
    except (OSError, HTTPException, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f'{key}: {what} ({error}); fetch it by other means to {path}, or name a '
                          'local file') from error


def _check_whole(path: Path) -> None:
    """Compare a downloaded file with the hash in its name and the checksums in it."""
    named = re.search(r'-([0-9a-f]{8})\.pth$', path.name)
    digest = sha256(path.read_bytes()).hexdigest()[:8] if named else ''
    if named and digest != named[1]:
        raise ValueError(f'its SHA-256 begins with {digest}, not with {named[1]} as its name says')
    _check_archive(path)


def _check_archive(path: Path) -> None:
    """Find missing parts and flipped bits, which ``torch.load`` may not notice.

    Since torch 1.6 a checkpoint is a zip archive, which has checksums.
    """
    with path.open('rb') as file:
        if file.read(2) != b'PK':
            return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f'the checksum of {damaged} is wrong')


def _statistic(owner: object, name: str) -> Callable:
    """Replace ``getattr``, which a checkpoint needs only for statistics of a HistoryBuffer."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise ValueError(f'getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def _harmless_globals() -> list[Callable | tuple[Callable, str]]:
    """List the types of MMEngine's checkpoints beside tensors, those of logged numbers."""
    functions = {'_reconstruct': np.empty(0).__reduce__()[0],
                 'scalar': np.float64().__reduce__()[0]}
    # A file has the module's name of the NumPy that wrote it, before 2.0 or since.
    arrays = [(function, f'numpy.{core}.multiarray.{name}')
              for name, function in functions.items() for core in ('core', '_core')]
    dtypes = [type(np.dtype(name)) for name in ('float32', 'float64', 'int32', 'int64', 'uint32')]
    return [np.ndarray, np.dtype, *arrays, *dtypes, HistoryBuffer,
            (_statistic, 'builtins.getattr')]

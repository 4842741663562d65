"""Reading checkpoint files: fetched whole, verified, and never executed."""
import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader

from .errors import ConfigError
from .restricted_unpickler import load_data

_trusted: set[Path] = set()
_torch_reads_safely = torch.__version__ >= '2.10'  # see restricted_unpickler


def trust(path: str | Path) -> None:
    """Allow a file to hold more than weights; reading it then runs whatever code is in it.

    Args:
        path (str | Path): The file.
    """
    _trusted.add(Path(path).expanduser().resolve())


def is_address(checkpoint: str) -> bool:
    """Tell whether a checkpoint has to be fetched.

    Args:
        checkpoint (str): Path or URL.

    Returns:
        bool: Whether it is a URL.
    """
    return checkpoint.startswith(('http://', 'https://'))


def local_path(checkpoint: str) -> Path:
    """Say where a checkpoint lies, or will lie once it is fetched.

    Args:
        checkpoint (str): Path or URL.

    Returns:
        Path: Its place on this machine.
    """
    if is_address(checkpoint):
        return Path(torch.hub.get_dir(), 'checkpoints', checkpoint.rsplit('/', 1)[1])
    return Path(checkpoint).expanduser()


def find_file(checkpoint: str, key: str) -> Path:
    """Find a checkpoint on this machine, fetching it where it is an address.

    Args:
        checkpoint (str): Path or URL. Where its name ends in ``-<8 hex>.pth``, the SHA-256 of the
            file must begin with these digits.
        key (str): The config key and its value, for messages.

    Returns:
        Path: The file.

    Raises:
        ConfigError: If it is missing, cannot be fetched, or is not what its name says.
    """
    path = local_path(checkpoint)
    if is_address(checkpoint):
        _fetch(checkpoint, path, key)
    if not path.is_file():
        what = 'a directory' if path.is_dir() else 'no such file'
        raise ConfigError(f'{key}: {what}; name an existing checkpoint (a relative path starts at '
                          f'{Path.cwd()})')
    expected = re.search(r'-([0-9a-f]{8})\.pth$', path.name)
    digest = file_hash(path) if expected else ''
    if expected and not digest.startswith(expected[1]):
        raise ConfigError(
            f'{key}: the SHA-256 of {path} begins with {digest[:8]}, not with {expected[1]} as '
            'its name says; the file is damaged or was renamed: delete it and fetch it again')
    return path


def file_hash(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path (Path): The file.

    Returns:
        str: 64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def read_checkpoint(path: Path, key: str, map_location: Any = 'cpu',
                    with_logs: bool = False) -> Any:
    """Read a checkpoint as data, whatever it holds.

    Args:
        path (Path): The file.
        key (str): The config key and its value, for messages.
        map_location (Any): As of ``torch.load``. Defaults to ``'cpu'``.
        with_logs (bool): Whether MMEngine's logged values are restored, as a resumed training
            needs them, not left out. Defaults to False.

    Returns:
        Any: What was saved.

    Raises:
        ConfigError: If the file is damaged, or holds something that would have to be executed.
    """
    if path.resolve() in _trusted:
        return torch.load(path, map_location=map_location, weights_only=False)
    try:
        _check_integrity(path)
        harmless = _harmless_globals(with_logs)
        if not _torch_reads_safely:
            return load_data(path, map_location, harmless)
        with torch.serialization.safe_globals(harmless):
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
    """Read the weights of a checkpoint.

    Args:
        checkpoint (str): Path or URL.
        key (str): The config key and its value, for messages.

    Returns:
        dict[str, Tensor]: The weights by name.

    Raises:
        ConfigError: If the file is missing, damaged, holds no weights, or more than that.
    """
    content = read_checkpoint(find_file(checkpoint, key), key)
    if isinstance(content, dict):
        content = content.get('state_dict', content)
    if not isinstance(content, dict) or not content or not all(
            isinstance(value, torch.Tensor) for value in content.values()):
        raise ConfigError(f'{key}: holds no state_dict; name a checkpoint that MMEngine saved')
    return content


def read_checkpoints_safely() -> None:
    """Have MMEngine read local files and addresses this way, for ``load_from`` and ``resume``."""

    def load(checkpoint: str, map_location: Any = None, **kwargs: Any) -> Any:
        key = f'load_from={checkpoint!r}'
        return read_checkpoint(find_file(checkpoint, key), key, map_location, with_logs=True)

    CheckpointLoader.register_scheme(('', 'http://', 'https://'), loader=load, force=True)


def _fetch(address: str, path: Path, key: str) -> None:
    if get_local_rank() == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading {address} to {path}', 'current')
        try:
            # Writes to a temporary file and renames it, so a broken download is never kept.
            torch.hub.download_url_to_file(address, str(path))
        except OSError as error:
            raise ConfigError(f'{key}: download failed ({error}); fetch it by other means to '
                              f'{path}, or name a local file') from error
    barrier()


def _check_integrity(path: Path) -> None:
    """Find flipped bits, over which ``torch.load`` would read: a zip archive has checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'the checksum of {damaged} is wrong')


class _Ignored:
    """Stands in for what a checkpoint holds beside weights, so that loading it has no effect.

    MMEngine's own ``HistoryBuffer`` would put the functions that it is loaded with into a table
    which all its instances share.
    """

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _statistic(owner: object, name: str) -> Callable:
    """Stand in for ``getattr``, which only has to find the statistics of a HistoryBuffer."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise ValueError(f'getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def _harmless_globals(with_logs: bool) -> list[Callable | tuple[Callable, str]]:
    """List what MMEngine's checkpoints hold beside tensors: logged numbers."""
    functions = {'_reconstruct': np.empty(0).__reduce__()[0],
                 'scalar': np.float64().__reduce__()[0]}
    # A file has the module's name of the NumPy that wrote it, before 2.0 or since.
    arrays = [(function, f'numpy.{core}.multiarray.{name}')
              for name, function in functions.items() for core in ('core', '_core')]
    dtypes = [type(np.dtype(name)) for name in ('float32', 'float64', 'int32', 'int64', 'uint32')]
    buffer = f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}'
    logs = ((HistoryBuffer, buffer), (_statistic, 'builtins.getattr')) if with_logs else (
        (_Ignored, buffer), (_Ignored, 'builtins.getattr'))
    return [np.ndarray, np.dtype, *arrays, *dtypes, *logs]

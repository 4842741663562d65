"""The results: JSON lines, one a cell, which several processes append to."""
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmakd.utils.errors import ConfigError
from trials.cells import Cell, Setting

# The file of the measurements that explain the results.
WHY = 'why.jsonl'


class Results(NamedTuple):
    """The files of the results.

    Args:
        folder (Path): Their folder.
        files (str): What they are called. Defaults to ``'{data}_{task}.jsonl'``, those of the
            comparison.
    """

    folder: Path
    files: str = '{data}_{task}.jsonl'

    def append(self, record: dict[str, Any]) -> None:
        """Append the result of a cell, whole, whoever else is appending."""
        path = self.folder / self.files.format_map(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('ab+') as file, locked(file.fileno()):
            file.seek(0)
            # What a kill has cut off is no result.
            file.truncate(file.read().rfind(b'\n') + 1)
            file.write(json.dumps(record, allow_nan=False).encode() + b'\n')
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """Read all results; of one cell the last.

        Raises:
            ConfigError: If a file is damaged.
        """
        found = {}
        for path in sorted(self.folder.glob(self.files.format(data='*', task='*'))):
            lines = path.read_text().splitlines()
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                    found[key(record)] = record
                except (ValueError, KeyError, TypeError) as error:
                    if number < len(lines):
                        raise ConfigError(f'{path}:{number}: is no result ({error!r}); restore or '
                                          'delete that line') from error
        return list(found.values())


def key(record: dict[str, Any]) -> tuple:
    """Tell which cell a result is of; the same as :func:`cell_key` of the cell."""
    setting = record['setting']
    return (record['data'], record['task'], record['arm'], record['seed'],
            setting and Setting(**setting))


def cell_key(cell: Cell) -> tuple:
    """Tell a cell from others in the results."""
    return cell.data, cell.task, cell.arm, cell.seed, cell.setting


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Claim something for the length of the block, unless another process has.

    The claim ends with the processes that hold it, however they end: there are no stale ones.

    Args:
        path (Path): The file that is locked; it is made where it is missing.

    Yields:
        bool: Whether it is ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def locked(file: int) -> Iterator[None]:
    """Wait for a file, and keep others waiting during the block."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)

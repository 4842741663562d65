"""Reading config files, with one line about what cannot be read."""
import importlib
import os.path as osp
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from .errors import ConfigError, suggest


def read_config(path: str | Path, options: Mapping[str, Any] | None = None,
                import_modules: bool = True) -> Config:
    """Read a config file.

    Args:
        path (str | Path): The file.
        options (Mapping[str, Any], optional): Settings to override, by dotted key. Defaults to
            None.
        import_modules (bool): Whether to import what its ``custom_imports`` name. Defaults to
            True.

    Returns:
        Config: The config.

    Raises:
        ConfigError: If the file or one of its bases is missing or cannot be read, a module
            cannot be imported, or an option does not fit.
    """
    if not osp.isfile(path):
        raise ConfigError(f'config={str(path)!r}: no such file{_neighbours(Path(path))}')
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
        # A config with read_base() imports the rest when it is looked at.
        dict(cfg.items())
    except (Exception, SystemExit) as error:
        raise ConfigError(_unreadable(error, path)) from error
    if import_modules:
        import_custom_modules(cfg)
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ConfigError(f'--cfg-options: {describe(error)}') from error
    return cfg


def import_custom_modules(cfg: Config) -> None:
    """Import the modules that ``custom_imports`` names.

    Args:
        cfg (Config): The config.

    Raises:
        ConfigError: If the key is malformed, or a module cannot be imported.
    """
    wanted = cfg.get('custom_imports')
    if not wanted:
        return
    modules = wanted.get('imports') if isinstance(wanted, dict) else None
    modules = [modules] if isinstance(modules, str) else modules
    if not modules or set(wanted) - {'imports', 'allow_failed_imports'}:
        raise ConfigError(f'custom_imports={wanted!r}: expected '
                          "dict(imports=['mmakd'], allow_failed_imports=False)")
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            if wanted.get('allow_failed_imports') and isinstance(error, ImportError):
                continue
            near = suggest(module, ['mmakd', 'mmdet', 'mmseg'])
            hint = f'; {near}' if near.startswith('did') else ''
            raise ConfigError(f'custom_imports.imports={modules!r}: cannot import {module!r} '
                              f'({describe(error)}); install it or put its place on PYTHONPATH'
                              f'{hint}') from error


def describe(error: BaseException) -> str:
    """Describe an error that is no ConfigError in one line.

    Args:
        error (BaseException): The error.

    Returns:
        str: Its class and the first line of its message.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [' '.join(line.split()) for line in text.strip().splitlines()]
    return ': '.join([type(error).__name__, *lines[:1]])


def _unreadable(error: BaseException, path: str | Path) -> str:
    places = _places(error, path)
    missing = Path(str(getattr(error, 'filename', None)))
    if isinstance(error, FileNotFoundError) and places[-1].file == _relative(missing):
        by = [place.file for place in places if place.file != places[-1].file]
        return (f'_base_={places[-1].file!r}: named by {by[-1]}, no such file'
                f'{_neighbours(missing)}')
    where = f'{places[-1].file}, line {places[-1].line}' if places[-1].line else places[-1].file
    return f'config={str(path)!r}: {where}: {describe(error)}'


class _Place(NamedTuple):
    file: str
    line: int | None


def _places(error: BaseException, path: str | Path) -> list[_Place]:
    """List the files of the inheritance chain as far as that at fault, and the line in it."""
    places = [_Place(str(path), None)]
    for frame, line in traceback.walk_tb(error.__traceback__):
        # MMEngine's reader of one file, and the code of that file.
        if frame.f_code.co_name == '_file2dict':
            places.append(_Place(_relative(Path(frame.f_locals['filename'])), None))
        elif frame.f_code.co_name == '<module>' and len(places) > 1:
            places.append(_Place(places[-1].file, line))
    if isinstance(error, SyntaxError):
        places.append(_Place(places[-1].file, error.lineno))
    return places


def _relative(path: Path) -> str:
    relative = osp.relpath(path)
    return str(path) if relative.startswith('..') else relative


def _neighbours(path: Path) -> str:
    """Suggest files that lie where ``path`` should."""
    if not path.parent.is_dir():
        return f'; there is no directory {_relative(path.parent)!r} either'
    near = suggest(path.name, (file.name for file in path.parent.glob('*.py')))
    return f'; {near}' if near.startswith('did') else ''

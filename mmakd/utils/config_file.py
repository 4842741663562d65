"""Read config files."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .errors import ConfigError, describe, suggest


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, and import the modules of its ``custom_imports``.

    Args:
        path (str | Path): The file.
        options (Mapping[str, Any], optional): Settings to override, by dotted key.

    Raises:
        ConfigError: If the file or one of its bases is missing or cannot be read, a module cannot
            be imported, or an option cannot be applied.
    """
    path = Path(path)
    if not path.is_file():
        hint = suggest(path.name, (file.name for file in path.parent.glob('*.py')))
        raise ConfigError(f"config={str(path)!r}: no such file"
                          f"{f'; {hint}' if hint.startswith('did') else ''}")
    try:
        cfg = Config.fromfile(path)
        # A config with read_base() imports the rest when it is looked at.
        dict(cfg.items())
    except (Exception, SystemExit) as error:
        raise ConfigError(f'config={str(path)!r}: {describe(error)}') from error
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ConfigError(f'--cfg-options: {describe(error)}') from error
    return cfg

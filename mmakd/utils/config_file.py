"""Read config files."""
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

from .errors import ConfigError, describe, suggest


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, and import the modules of its ``custom_imports``.

    One in pure Python (``read_base()``) becomes one with registered names.

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
        _name_classes(cfg)
    except (Exception, SystemExit) as error:
        raise ConfigError(f'config={str(path)!r}: {describe(error)}') from error
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ConfigError(f'--cfg-options: {describe(error)}') from error
    return cfg


def _name_classes(cfg: Config) -> None:
    """Replace the classes of a config in pure Python by their registered names.

    A Runner saves its config with their paths, by which MMEngine does not find every class: the
    function smooth_l1_loss hides the module of mmdet's L1Loss.
    """
    found = list(_find_classes(dict(cfg.items())))
    if not found:
        return
    registered = {kind: (name, registry, root)
                  for root in vars(mmengine.registry).values() if isinstance(root, Registry)
                  for registry in (root, *root.children.values())
                  for name, kind in registry.module_dict.items()}
    scope = cfg.get('default_scope')
    modules = []
    for part in found:
        kind = part['type']
        if kind in registered:
            name, registry, root = registered[kind]
            is_plain = root.children.get(scope, root).get(name) is kind
            part['type'] = name if is_plain else f'{registry.scope}.{name}'
            # MMEngine itself imports the packages that it has scopes for.
            if kind.__module__.split('.')[0] not in (root.scope, 'mmcv', 'torch', *root.children):
                modules.append(kind.__module__)
    if modules:
        own = (cfg.get('custom_imports') or {}).get('imports') or []
        cfg.custom_imports = dict(
            imports=list(dict.fromkeys([*([own] if isinstance(own, str) else own), *modules])),
            allow_failed_imports=False)


def _find_classes(value: Any) -> Iterator[dict[str, Any]]:
    """Find the dicts whose ``type`` is a class or a function, not a name."""
    if isinstance(value, dict):
        if callable(value.get('type')):
            yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _find_classes(part)

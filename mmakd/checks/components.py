"""Checking registered components: their types, their arguments, and that they can be built."""
from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Collection, Iterator
from typing import Any

from mmengine import registry as registries
from mmengine.registry import Registry

from ..utils.build import find_type, unknown_arguments
from ..utils.config_file import describe
from ..utils.errors import ConfigError, suggest
from .findings import Findings

REGISTRIES = [value for value in vars(registries).values() if isinstance(value, Registry)]
# Configs of layers, of which the code around takes some keys for itself.
_OPEN = ('_cfg', 'dcn', 'plugins')


def check_component(cfg: Any, key: str, registry: Registry, findings: Findings,
                    given: Collection[str] = ()) -> Any:
    """Check type and arguments of a component without building it.

    Args:
        cfg (dict): Its config.
        key (str): Its key.
        registry (Registry): Where its type is registered.
        findings (Findings): Takes what is wrong.
        given (Collection[str]): Arguments that the Runner adds. Defaults to ().

    Returns:
        Any: Its class or function; None where anything is wrong.
    """
    with findings.under(key):
        found = find_type(cfg, registry)
        problems = (unknown_arguments(cfg, found, given)
                    + _missing_arguments(cfg, found, given))
        if problems:
            raise ConfigError(problems)
        return found
    if isinstance(cfg, dict):
        findings.problems += wrong_parts(cfg, key)
    return None


def build_component(cfg: Any, key: str, registry: Registry, findings: Findings,
                    forgive: tuple[type[Exception], ...] = (), **given: Any) -> Any:
    """Build a component.

    Args:
        cfg (dict): Its config.
        key (str): Its key.
        registry (Registry): Where its type is registered.
        findings (Findings): Takes what is wrong.
        forgive (tuple[type[Exception], ...]): Errors that mean missing files, a warning only.
            Defaults to ().
        **given: Arguments that the Runner adds.

    Returns:
        Any: The component; None where it cannot be built.
    """
    if check_component(cfg, key, registry, findings, given) is None:
        return None
    with findings.under(key):
        try:
            return registry.build(copy.deepcopy(cfg), default_args=given)
        except ConfigError:
            raise
        except forgive as error:
            findings.warn(f'{key}.type={cfg["type"]!r}: not checked, it needs files that are '
                          f'missing ({describe(error)})')
        except Exception as error:
            findings.problems += explain(cfg, key, registry, error)
    return None


def explain(cfg: Any, key: str, registry: Registry, error: Exception) -> list[str]:
    """Find why a component cannot be built.

    Args:
        cfg (dict): Its config.
        key (str): Its key.
        registry (Registry): Where its type is registered.
        error (Exception): What building it raised.

    Returns:
        list[str]: What is wrong with types and arguments, its own or of parts of it; where that
        is right, the error at the innermost part that raises it.
    """
    findings = Findings()
    if check_component(cfg, key, registry, findings) is not None:
        findings.problems += wrong_parts(cfg, key)
    if findings.problems:
        return findings.problems
    culprit, name = key, cfg['type']
    for part_key, part in nested_configs(cfg, key):
        # Parents come before their parts.
        if isinstance(part.get('type'), str) and part_key.startswith(f'{culprit}.'):
            try:
                registry.build({'_scope_': cfg.get('_scope_'), **copy.deepcopy(part)})
            except Exception as same:
                if str(same) == str(error):
                    culprit, name = part_key, part['type']
    return [f'{culprit}.type={name!r}: {describe(error)}']


def wrong_parts(cfg: dict, key: str) -> list[str]:
    """Find what is wrong in the components nested in a config that cannot be built.

    Args:
        cfg (dict): The config.
        key (str): Its key.

    Returns:
        list[str]: Types that are near a registered one, and arguments that a type does not take.
    """
    findings = Findings()
    for name, part in nested_configs(cfg, key):
        if isinstance(part.get('type'), str) and not name.endswith('.nms'):
            with findings.under(name):
                found = _find_anywhere({'_scope_': cfg.get('_scope_'), **part})
                if found is not None and not name.rsplit('.', 1)[-1].endswith(_OPEN):
                    problems = unknown_arguments(part, found)
                    if problems:
                        raise ConfigError(problems)
    return findings.problems


def nested_configs(cfg: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Walk through the dicts in a config.

    Args:
        cfg (dict | list): The config.
        key (str): Its key.

    Yields:
        tuple[str, dict]: Key and value of each dict below ``cfg``.
    """
    children = cfg.items() if isinstance(cfg, dict) else enumerate(cfg)
    for name, child in children:
        if isinstance(child, dict):
            yield f'{key}.{name}', child
        if isinstance(child, (dict, list, tuple)):
            yield from nested_configs(child, f'{key}.{name}')


def _find_anywhere(cfg: dict) -> Any:
    """Find a type in any registry; None where none has it nor a name near to it."""
    known: set[str] = set()
    for registry in REGISTRIES:
        try:
            return find_type(cfg, registry)
        except ConfigError:
            with registry.switch_scope_and_registry(cfg['_scope_']) as scoped:
                known |= set(scoped.module_dict) | set(registry.module_dict)
    hint = suggest(cfg['type'], known)
    if hint.startswith('did you mean'):
        raise ConfigError(f'type={cfg["type"]!r}: not registered; {hint}')
    return None


def _missing_arguments(cfg: dict, found: Any, given: Collection[str]) -> list[str]:
    parameters = inspect.signature(found).parameters
    missing = [p.name for p in parameters.values()
               if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
               and p.name not in cfg and p.name not in given]
    # A misspelt one is reported already, with its right name.
    strange = [key for key in cfg if key not in parameters]
    return [f'{name}: missing; {cfg["type"]} needs it' for name in missing
            if not difflib.get_close_matches(name, strange)]

"""Building registered components from configs, with errors in terms of config keys."""
import inspect
import types
from collections.abc import Callable, Collection, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmengine.registry import MODELS, Registry

from .errors import ConfigError, is_real, suggest

_MOST_LETTERS = 60


def find_type(cfg: Any, registry: Registry = MODELS) -> Any:
    """Find what the ``type`` of a component's config stands for.

    Args:
        cfg (dict): Config with the key ``type``.
        registry (Registry): Where it is registered. Defaults to ``MODELS``.

    Returns:
        Any: The class or function.

    Raises:
        ConfigError: If ``cfg`` is no dict with a ``type``, or the type is not registered.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f'={cfg!r}: expected dict(type=...)')
    if 'type' not in cfg:
        raise ConfigError(f'type: missing in {_brief(dict(cfg))}; name a registered class')
    name = cfg['type']
    with registry.switch_scope_and_registry(_scope(cfg)) as scoped:
        found = scoped.get(name) if isinstance(name, str) else name
        if found is None:
            known = set(scoped.module_dict) | set(registry.module_dict)
            raise ConfigError(f'type={name!r}: not registered; '
                              f'{suggest(str(name).split(".")[-1], known)}')
    if not callable(found):
        raise ConfigError(f'type={name!r}: expected the name of a registered class')
    return found


def known_arguments(found: Any) -> set[str] | None:
    """List the arguments that a class or function takes by name.

    Args:
        found (Any): The class or function. Where a class takes ``**kwargs``, the arguments of
            the next class in its method resolution order count too.

    Returns:
        set[str] | None: Their names; None where any name is taken.
    """
    known: set[str] = set()
    for function in _initializers(found):
        parameters = inspect.signature(function).parameters.values()
        known.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD,
                                                              p.KEYWORD_ONLY))
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return known - {'self'}
    return None


def unknown_arguments(cfg: dict, found: Any, given: Collection[str] = ()) -> list[str]:
    """Check the keys of a component's config.

    Args:
        cfg (dict): Config with the key ``type``.
        found (Any): What its type stands for.
        given (Collection[str]): Arguments that no config gives. Defaults to ().

    Returns:
        list[str]: A problem for each key that is no argument.
    """
    known = known_arguments(found)
    if known is None:
        return []
    valid = {'type', *known}.difference(given)
    return [f'{key}={_brief(cfg[key])}: {cfg["type"]} has no such argument; {suggest(key, valid)}'
            for key in sorted(set(cfg) - known - {'type', '_scope_'})]


def wrong_types(cfg: dict, found: Any) -> list[str]:
    """Check the values of a component's config against the annotations of its arguments.

    Args:
        cfg (dict): Its arguments.
        found (Any): The class or function that takes them.

    Returns:
        list[str]: A problem for each value of another type; a default is never one.
    """
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for function in _initializers(found):
        parameters = inspect.signature(function).parameters
        try:
            named = get_type_hints(function)
        except (NameError, TypeError):
            named = {}  # names that are known to type checkers only
        hints = {**named, **hints}
        defaults = {**{name: p.default for name, p in parameters.items()}, **defaults}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    return [f'{key}={_brief(cfg[key])}: must be {_say_type(hints[key])}'
            for key in sorted(set(cfg) & set(hints) & set(defaults))
            if cfg[key] is not defaults[key] and not _fits(cfg[key], hints[key])]


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type, as far as that can be told."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if hint is float:
        return is_real(value) and value == value
    if hint is int:
        return is_real(value) and value == value // 1
    if origin in _SEQUENCES:
        # A config has lists for tuples, and the other way round.
        return isinstance(value, (list, tuple)) and all(
            not parts or any(_fits(item, part) for part in parts if part is not ...)
            for item in value)
    if origin is None and inspect.isclass(hint):
        # Or a dict of which it is to be built.
        return isinstance(value, hint) or (
            hint not in _PLAIN and isinstance(value, dict) and 'type' in value)
    return True


_SEQUENCES = (list, tuple, Sequence)
_PLAIN = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'a text',
          dict: 'a dict', list: 'a list', tuple: 'a list', type(None): 'None'}


def _say_type(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return ' or '.join(dict.fromkeys(map(_say_type, get_args(hint))))
    if get_origin(hint) in _SEQUENCES:
        items = dict.fromkeys(_say_type(part) for part in get_args(hint) if part is not ...)
        return f'a list, each item {" or ".join(items)}' if items else 'a list'
    return _PLAIN.get(hint, f'a {getattr(hint, "__name__", hint)}')


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_LETTERS else f'{text[:_MOST_LETTERS - 3]}...'


def _scope(cfg: dict) -> str | None:
    scope, name = cfg.get('_scope_'), cfg['type']
    if scope is None and isinstance(name, str) and name.count('.') == 1:
        return name.split('.')[0]
    return scope


def _initializers(found: Any) -> list[Callable]:
    if not inspect.isclass(found):
        return [found]
    return [vars(base)['__init__'] for base in found.__mro__ if '__init__' in vars(base)]


def build(cfg: Any, offer: dict[str, Any] | None = None, **defaults: Any) -> Any:
    """Build a component of the ``MODELS`` registry.

    Like ``MODELS.build``, but an unknown type or argument is reported as a config key with the
    nearest valid name.

    Args:
        cfg (dict): Config with the key ``type``.
        offer (dict, optional): Arguments used where ``cfg`` does not give them and the type has
            them by name. Defaults to None.
        **defaults: Arguments used where ``cfg`` does not give them.

    Returns:
        Any: The component.

    Raises:
        ConfigError: If ``cfg`` is no dict with a ``type``, the type is not registered, or its
            arguments are wrong.
    """
    found = find_type(cfg)
    problems = unknown_arguments(cfg, found)
    if problems:
        raise ConfigError(problems)
    named = inspect.signature(found).parameters
    taken = {key: value for key, value in (offer or {}).items() if key in named}
    with MODELS.switch_scope_and_registry(_scope(cfg)) as registry:
        try:
            component = registry.build({**taken, **defaults, **cfg})
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(wrong_types(cfg, found)
                              or f'type={cfg["type"]!r}: {error}') from error
    problems = wrong_types(cfg, found)
    if problems:
        raise ConfigError(problems)
    return component

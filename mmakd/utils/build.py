"""Build registered components from configs, with errors in terms of config keys."""
import inspect
from typing import Any, get_type_hints

from mmengine.registry import MODELS, Registry
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from .errors import ConfigError, describe, suggest

_MOST_LETTERS = 60


def find_type(cfg: Any, registry: Registry = MODELS) -> Any:
    """Find the class or function of a component's ``type`` in a registry.

    Raises:
        ConfigError: If ``cfg`` is not a dict with a ``type``, or the type is not registered.
    """
    if not isinstance(cfg, dict):
        raise ConfigError(f'={cfg!r}: expected dict(type=...)')
    if 'type' not in cfg:
        raise ConfigError(f'type: missing in {brief(dict(cfg))}; name a registered class')
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
    """List the arguments of a class or function; None if it takes any (``**kwargs``)."""
    parameters = inspect.signature(found).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def check_arguments(cfg: dict, found: Any) -> None:
    """Check the arguments of a component's config against the signature of its type.

    Annotations are checked for our own types only; those of other packages are not always right.

    Raises:
        ConfigError: With all problems at once, if an argument is unknown or of a wrong type.
    """
    given = {key: value for key, value in cfg.items() if key not in ('type', '_scope_')}
    known = known_arguments(found)
    unknown = [] if known is None else sorted(set(given) - known)
    problems = [f'{key}={brief(given[key])}: {_name(found)} has no such argument; '
                f'{suggest(key, {"type", *(known or ())})}' for key in unknown]
    if found.__module__.startswith('mmakd.'):
        problems += wrong_types(given, found)
    if problems:
        raise ConfigError(problems)


def wrong_types(cfg: dict, found: Any) -> list[str]:
    """Check arguments, given by name, against the annotations of a class or function.

    Returns:
        list[str]: A problem for each value of a wrong type; a default is never one.
    """
    parameters = inspect.signature(found).parameters
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
    problems = []
    for key in sorted(set(cfg) & set(hints) & set(parameters)):
        value, hint = cfg[key], hints[key]
        if value is parameters[key].default or (isinstance(value, dict) and 'type' in value):
            continue  # a config of what is to be built
        name = inspect.formatannotation(hint).replace('collections.abc.', '')
        if 'Literal' in name:
            continue  # the class itself names the valid values
        try:
            if isinstance(value, bool) and 'bool' not in name and hint is not Any:
                raise TypeCheckError('Python takes it for a number')
            check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError:
            problems.append(f'{key}={brief(value)}: must be {name}')
    return problems


def build(cfg: Any, registry: Registry = MODELS, offer: dict[str, Any] | None = None,
          **defaults: Any) -> Any:
    """Build a registered component.

    Like ``registry.build``, but an unknown type or argument is reported as a config key with the
    nearest valid name.

    Args:
        cfg (dict): Config with the key ``type``.
        registry (Registry): Where the type is registered.
        offer (dict, optional): Arguments used if the type has them and ``cfg`` does not set them.
        **defaults: Arguments used if ``cfg`` does not set them.

    Raises:
        ConfigError: If the type or an argument is wrong, or the component cannot be built.
    """
    found = find_type(cfg, registry)
    check_arguments(cfg, found)
    named = inspect.signature(found).parameters
    taken = {key: value for key, value in (offer or {}).items() if key in named}
    with registry.switch_scope_and_registry(_scope(cfg)) as scoped:
        try:
            return scoped.build({**taken, **defaults, **cfg})
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f'type={_name(found)!r}: {describe(error)}') from error


def _name(found: Any) -> str:
    return getattr(found, '__name__', str(found))


def brief(value: Any) -> str:
    """Show a value of a config in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= _MOST_LETTERS else f'{text[:_MOST_LETTERS - 3]}...'


def _scope(cfg: dict) -> str | None:
    scope, name = cfg.get('_scope_'), cfg['type']
    if scope is None and isinstance(name, str) and name.count('.') == 1:
        return name.split('.')[0]
    return scope

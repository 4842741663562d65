"""References such as ``'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'``."""
import importlib.util
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import load

from .config_file import read_config
from .errors import ConfigError, ConfigProblems, describe, suggest

_PACKAGES = ('mmdet', 'mmseg')


def is_reference(name: object) -> bool:
    """Tell whether a value has the form ``'<package>::<path>'``, a config in a package."""
    return isinstance(name, str) and '::' in name


def resolve_model(model: str | dict) -> dict:
    """Find the model config that a ``student`` or ``teacher`` key refers to.

    Args:
        model (str | dict): A model dict; the path of a config file; ``'mmdet::name.py'`` or
            ``'mmseg::name.py'``, a config inside the installed package of any distribution; or
            ``dict(cfg=<one of these>, **overrides)``, which merges the overrides into its
            ``model``.

    Raises:
        ConfigError: If the package, the file or its ``model`` is missing.
    """
    if isinstance(model, dict) and 'cfg' in model:
        problems, overrides = ConfigProblems(), dict(model)
        with problems.under('cfg'):
            merged = Config(dict(model=resolve_model(overrides.pop('cfg'))))
        problems.raise_if_any()
        try:
            merged.merge_from_dict(dict(model=overrides))
        except Exception as error:
            raise ConfigError(f'={model!r}: cannot be merged: {describe(error)}') from error
        return merged.model
    if isinstance(model, dict):
        if 'type' not in model:
            raise ConfigError("type: missing; give a model dict, a config path, 'mmdet::name.py' "
                              "or dict(cfg='mmdet::name.py', ...)")
        return model
    if not isinstance(model, str):
        raise ConfigError(f"={model!r}: expected a model dict, a config path or 'mmdet::name.py'")
    try:
        cfg = read_config(find_config(model))
    except ConfigError as error:
        raise ConfigError(f'={model!r}: {error}') from error
    if 'model' not in cfg:
        raise ConfigError(f'={model!r}: defines no model')
    resolved = dict(cfg.model)
    if 'data_preprocessor' in cfg:
        resolved.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the Runner does
    scope = model.split('::')[0] if is_reference(model) else cfg.get('default_scope')
    return dict(resolved, _scope_=scope) if scope else resolved


def find_checkpoint(reference: str) -> str:
    """Find the address of the checkpoint that a package's metafile names for a reference.

    Raises:
        ConfigError: If there is no such config, or the metafile names none.
    """
    path = find_config(reference)
    name = reference.split('::')[1]
    for metafile in sorted(path.parent.glob('metafile.y*ml')):
        for model in load(metafile).get('Models', []):
            if model.get('Config', '').endswith(f'configs/{name}') and model.get('Weights'):
                return model['Weights']
    raise ConfigError(f"='auto': the metafile beside {reference!r} names no weights; "
                      'give the path or the URL of a checkpoint')


def find_config(name: str) -> Path:
    """Find a config file by its path or its reference.

    Raises:
        ConfigError: If there is no such file.
    """
    if not is_reference(name):
        if not Path(name).is_file():
            raise ConfigError(f'no such config file; a relative path starts at {Path.cwd()}')
        return Path(name)
    package, name = name.split('::', 1)
    if package not in _PACKAGES:
        raise ConfigError(f'unknown package; {suggest(package, _PACKAGES)}')
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f'{package} is not installed')
    folder = Path(spec.origin).parent
    # A wheel carries its configs in .mim; a checkout has them beside the package.
    roots = [root for root in (folder / '.mim' / 'configs', folder.parent / 'configs')
             if root.is_dir()]
    for root in roots:
        if (root / name).is_file():
            return root / name
    valid = [str(path.relative_to(root)) for root in roots for path in root.glob('*/*.py')]
    raise ConfigError(f'{package} ships no such config; {suggest(name, valid)}')

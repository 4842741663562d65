"""The student that a config trains, alone and with the weights of a checkpoint."""
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope

from ..utils.checkpoint import read_state_dict
from ..utils.errors import ConfigError, ConfigProblems
from ..utils.state_dict import OWN_KEYS, describe_mismatch, rename_keys
from .assembly import build_network


def load_student(cfg: Config, checkpoint: str, argument: str = 'CKPT') -> BaseModel:
    """Build the student that a config trains, with the weights of a checkpoint.

    Args:
        cfg (Config): Config of a distilled or a plain student; of several, the first is taken.
        checkpoint (str): Path or URL of a checkpoint of either.
        argument (str): What messages call the checkpoint. Defaults to ``'CKPT'``.

    Returns:
        BaseModel: The student in eval mode, on the CPU.

    Raises:
        ConfigError: If it cannot be built, or the checkpoint cannot be read or does not fit.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    key, model = 'model', cfg.get('model') or {}
    for part in 'student', 'students':
        if part in model:
            key, model = f'{key}.{part}', model[part]
    if key == 'model.students':
        name, model = next(iter(model.items()))
        key = f'{key}.{name}'
    problems = ConfigProblems()
    with problems.under(key):
        student = build_network(model, cfg.get('data_preprocessor'))
    problems.raise_if_any()
    argument = f'{argument}={checkpoint!r}'
    weights = {name: value for name, value in read_state_dict(checkpoint, argument).items()
               if not name.startswith(OWN_KEYS)}
    rename_keys(student, weights)
    mismatch = describe_mismatch(student, weights)
    if mismatch:
        raise ConfigError(f'{argument}: does not fit {key} ({type(student).__name__}): '
                          f'{mismatch}; name a checkpoint of this config')
    student.load_state_dict(weights, strict=False)
    return student.eval()

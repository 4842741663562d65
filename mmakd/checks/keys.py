"""Find misspelt top-level keys, which the Runner silently ignores."""
from __future__ import annotations

import difflib
import importlib.util
import inspect

from mmengine.config import Config
from mmengine.runner import Runner

from ..utils.errors import ConfigProblems, suggest

RUNNER_KEYS = [*(key for key in inspect.signature(Runner).parameters if key != 'cfg'),
               'compile', 'custom_imports', 'model_wrapper_cfg', 'runner_type', 'sync_bn']
_SCOPES = ('mmdet', 'mmseg')
# So that a user's own variables, such as train_pipeline, stay below it.
_NEAR = 0.85


def check_keys(cfg: Config, problems: ConfigProblems) -> None:
    """Check the top-level keys; one far from all that the Runner knows is a user's variable."""
    for key, value in cfg.items():
        right = nearest_key(key)
        # A number or a string by such a name is a user's variable.
        if right and (isinstance(value, (dict, list)) or right in ('load_from', 'resume')):
            problems.add(f'{key}: the Runner does not know this key and ignores it; did you mean '
                         f'{right!r}?')
    scope = cfg.get('default_scope')
    if not isinstance(scope, str) or importlib.util.find_spec(scope) is None:
        problems.add(f'default_scope={scope!r}: no such package; {suggest(scope, _SCOPES)}')


def nearest_key(key: str) -> str | None:
    """Find the key that a misspelt one stands for; None if it is right, or too far from any."""
    if key in RUNNER_KEYS or any(key.startswith(f'{right}_') for right in RUNNER_KEYS):
        return None
    # Two letters swapped weigh much in a short name.
    near = [right for right in RUNNER_KEYS if sorted(key.lower()) == sorted(right)]
    near += difflib.get_close_matches(key.lower(), RUNNER_KEYS, n=1, cutoff=_NEAR)
    return near[0] if near else None

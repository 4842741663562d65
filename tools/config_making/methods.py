"""The settings of each method, as configs/ has them."""
from dataclasses import dataclass, field
from typing import Any

from mmakd.utils.errors import ConfigError, suggest

AKD = 'akd-'


@dataclass(frozen=True)
class Setting:
    """A criterion's setting at one kind of tap.

    Attributes:
        criterion (dict): Its config.
        loss_weight (float): Its weight.
        source (str): Where the numbers are from.
        adapter (bool): Whether each level has a ``ConvAdapter`` even where channels agree.
            Defaults to False.
        optim_wrapper (dict): What the method needs there. Defaults to an empty dict.
    """

    criterion: dict[str, Any]
    loss_weight: float
    source: str
    adapter: bool = False
    optim_wrapper: dict[str, Any] = field(default_factory=dict)


_CWD = dict(type='ChannelWiseDivergence', tau=1.0)
_CLIP = dict(clip_grad=dict(max_norm=35, norm_type=2))
# By the criterion, then by the place of the tap: 'neck', 'logits' (or another output of a head) or
# 'backbone'.
SETTINGS: dict[str, dict[str, Setting]] = dict(
    cwd=dict(
        neck=Setting(_CWD, 7.5, "AKD's weight for RepPoints, adapter on every level", True),
        logits=Setting(_CWD, 5.0, "the weight of CWD's authors for logits"),
        backbone=Setting(_CWD, 7.5, 'no weight is published for a backbone; this is the one of '
                         'necks')),
    mgd=dict(
        neck=Setting(dict(type='MGDLoss', alpha_mgd=2e-5, lambda_mgd=0.65), 1.0,
                     "MGD's setting for RetinaNet, with its clipping", optim_wrapper=_CLIP),
        backbone=Setting(dict(type='MGDLoss', alpha_mgd=2e-5, lambda_mgd=0.75), 1.0,
                         "MGD's setting for PSPNet")),
    fgd=dict(
        neck=Setting(dict(type='FGDLoss', temp=0.5, alpha_fgd=1e-3, beta_fgd=5e-4,
                          gamma_fgd=5e-4, lambda_fgd=5e-6), 1.0,
                     "FGD's setting for RetinaNet, with its clipping", optim_wrapper=_CLIP)))
METHODS = [prefix + name for name in SETTINGS for prefix in (AKD, '')]


def find_settings(method: str) -> dict[str, Setting]:
    """Find the settings of a method by the place of the tap.

    Raises:
        ConfigError: If there is no such method.
    """
    if method not in METHODS:
        raise ConfigError(f'--method={method!r}: no such method; {suggest(method, METHODS)}')
    return SETTINGS[method.removeprefix(AKD)]

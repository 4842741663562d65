"""What is compared: base criteria and arms, as data."""
from typing import Any, NamedTuple

from trials.tasks import TASKS


class Base(NamedTuple):
    """A method whose temperature and weight are searched for before it is compared.

    Args:
        criterion (dict): Config of its criterion.
        loss_weight (dict[str, float]): Where the search begins, for each task: the weight of the
            toy config or the published one, otherwise 1.
        taus (tuple[float, ...]): Temperatures to try, the one to begin with first. Defaults to
            (), for criteria without.
        loss (dict): Keys of ``UncertaintyFeatureLoss`` where the method needs one. Defaults to
            {}: the criterion is the loss.
        tap (dict[str, str]): Where it taps, if not at the task's tap. Defaults to {}.
    """

    criterion: dict[str, Any]
    loss_weight: dict[str, float]
    taus: tuple[float, ...] = ()
    loss: dict[str, Any] = {}
    tap: dict[str, str] = {}


class Arm(NamedTuple):
    """One row of the study.

    Args:
        title (str): What it is called in the report.
        base (str, optional): Key of :data:`BASES`; None for a student without a teacher.
        loss (dict): Keys of ``UncertaintyFeatureLoss`` beside criterion and weight. Defaults to
            {}: the base as it is.
        upstream (bool): Whether the Avatars are made at the input of the tapped module, not at
            its output. Defaults to False.
        teachers (range): Seeds of the teachers, which share the weight of the loss. Defaults to
            that of the first.
        tau (float, optional): A fixed temperature at the starting weight, instead of the chosen
            setting. Defaults to None.
        changes (dict): Overrides of the config, by dotted key. Defaults to {}.
        length (float): Factor on the iterations. Defaults to 1.
        same_time (bool): Whether a student without a teacher trains as long as one with a
            teacher does, in seconds. Defaults to False.
        images (float): Share of the training images. Defaults to 1.
        tasks (tuple[str, ...]): Which tasks it exists for. Defaults to both.
        against (str, optional): The arm that it is compared with. Defaults to ``'plain'``; None
            for a plain student.
    """

    title: str
    base: str | None = None
    loss: dict[str, Any] = {}
    upstream: bool = False
    teachers: range = range(1)
    tau: float | None = None
    changes: dict[str, Any] = {}
    length: float = 1
    same_time: bool = False
    images: float = 1
    tasks: tuple[str, ...] = tuple(TASKS)
    against: str | None = 'plain'


_TAUS = (1.0, 2.0, 4.0, 8.0)
_CWD = dict(type='ChannelWiseDivergence')
_CWD_WEIGHT = dict(det=7.5, seg=5.0)
_SIGMA: dict[str, Any] = dict(perturb=False)
_AVATARS: dict[str, Any] = dict(uncertainty=None)
_BOTH: dict[str, Any] = dict(num_avatars=1)

BASES = {
    'cwd': Base(_CWD, _CWD_WEIGHT, _TAUS),
    'cwd-norm': Base(_CWD, dict(det=1.0, seg=1.0), _TAUS,
                     dict(perturb=False, uncertainty=dict(type='BatchStatistics'))),
    'akd-cwd-own': Base(_CWD, _CWD_WEIGHT, _TAUS, _BOTH),
    'mse': Base(dict(type='FeatureMSELoss'), dict(det=1.0, seg=1.0)),
    'pkd': Base(dict(type='PKDLoss'), dict(det=6.0, seg=5.0)),
    'mgd': Base(dict(type='MGDLoss'), dict(det=1.0, seg=1.0), tap=dict(seg='backbone.layer3')),
    'fgd': Base(dict(type='FGDLoss', gamma_fgd=5e-4), dict(det=1.0)),
    'kd': Base(dict(type='KLDivergence'), dict(seg=1.0), _TAUS),
    'ewkd': Base(dict(type='EntropyWeightedKDLoss', gamma=-0.5), dict(seg=1.0), _TAUS),
    'distcorr': Base(dict(type='DistributionCorrelationLoss', source='avatars',
                          perturbation=dict(type='DropoutPerturbation', drop_rate=0.1)),
                     dict(seg=0.1)),
}


def _akd(base: str, title: str) -> dict[str, Arm]:
    """Sigma, Avatars and both on one base."""
    return {
        f'akd-{base}': Arm(f'AKD on {title}', base, _BOTH, against=base),
        f'{base}-sigma': Arm(f'{title}, sigma only', base, _SIGMA, against=base),
        f'{base}-avatars': Arm(f'{title}, Avatars only', base, _AVATARS, against=base),
    }


def _regime(name: str, title: str, **regime: Any) -> dict[str, Arm]:
    plain, cwd = f'plain-{name}', f'cwd-{name}'
    return {plain: Arm(f'plain, {title}', against=None, **regime),
            cwd: Arm(f'CWD, {title}', 'cwd', against=plain, **regime),
            f'akd-{cwd}': Arm(f'AKD on CWD, {title}', 'cwd', _BOTH, against=cwd, **regime)}


def _cwd(title: str, **loss: Any) -> Arm:
    return Arm(f'AKD on CWD, {title}', 'cwd', loss, against='cwd')


_UPSTREAM = dict(perturbation=dict(type='ChannelDropoutPerturbation', drop_rate=0.1),
                 num_avatars=4)
_SAMPLED = dict(type='AvatarVariance', estimator='sampled')
_ZERO = dict(type='DropoutPerturbation', drop_rate=0.1, fill='zero')
_BALANCE = {'default_hooks.distillation_balance': dict(
    type='DistillationBalanceHook', share=0.1, interval=50)}

HEADLINE = {
    'plain': Arm('plain', against=None),
    'cwd-tau1': Arm('CWD, tau 1', 'cwd', tau=1.0, against='cwd'),
    'cwd-tau2': Arm('CWD, tau 2', 'cwd', tau=2.0, tasks=('seg', ), against='cwd'),
    'cwd-tau4': Arm('CWD, tau 4', 'cwd', tau=4.0, against='cwd'),
    'cwd': Arm('CWD', 'cwd'),
    'cwd-norm': Arm('normalised CWD', 'cwd-norm', against='cwd'),
    **_akd('cwd', 'CWD'),
}
REGIMES = {
    **_regime('tenth', 'a tenth of the images', images=0.1),
    **_regime('long', 'three times the schedule', length=3),
    'cwd-other': Arm('CWD, another teacher', 'cwd', teachers=range(1, 2)),
    'akd-cwd-other': Arm('AKD on CWD, another teacher', 'cwd', _BOTH, teachers=range(1, 2),
                         against='cwd-other'),
}
# AKD on CWD with one thing changed: placebos, and what might be a default instead.
VARIANTS = {
    'akd-cwd-shuffled': _cwd('placebo: sigma of other channels',
                             uncertainty=dict(type='ShuffledAvatarVariance')),
    'akd-cwd-noise': _cwd('placebo: noise of the same variance',
                          perturbation=dict(type='MatchedNoisePerturbation', drop_rate=0.1)),
    'upstream': Arm('AKD on CWD, 4 upstream Avatars', 'cwd',
                    dict(_UPSTREAM, uncertainty=_SAMPLED), upstream=True, against='cwd'),
    'upstream-avatars': Arm('CWD, 4 upstream Avatars, no sigma', 'cwd',
                            dict(_UPSTREAM, uncertainty=None), upstream=True, against='cwd'),
    'upstream-mean': Arm('CWD, mean of 4 upstream Avatars', 'cwd',
                         dict(_UPSTREAM, uncertainty=None, target='mean'), upstream=True,
                         against='cwd'),
    'akd-cwd-letter': _cwd('to the letter', perturbation=_ZERO,
                           uncertainty=dict(type='AvatarVariance', rescale=None)),
    'akd-cwd-k2': _cwd('K = 2', num_avatars=2),
    'akd-cwd-k4': _cwd('K = 4', num_avatars=4),
    'akd-cwd-p05': _cwd('drop rate 0.05',
                        perturbation=dict(type='DropoutPerturbation', drop_rate=0.05)),
    'akd-cwd-p30': _cwd('drop rate 0.3',
                        perturbation=dict(type='DropoutPerturbation', drop_rate=0.3)),
}
REST = {
    'plain-time': Arm('plain, as long as CWD in seconds', same_time=True, against='cwd'),
    'akd-cwd-own': Arm('AKD on CWD, its own tau and weight', 'akd-cwd-own', against='cwd'),
    'mse': Arm('MSE', 'mse'),
    **_akd('mse', 'MSE'),
    'pkd': Arm('PKD', 'pkd'),
    **_akd('pkd', 'PKD'),
    'mgd': Arm('MGD', 'mgd'),
    **VARIANTS,
    'akd-cwd-released': Arm('released code: normalised CWD with Avatars', 'cwd-norm',
                            dict(perturb=True, perturbation=_ZERO), against='cwd-norm'),
    'two-teachers': Arm('CWD, two teachers', 'cwd', teachers=range(2), against='cwd'),
    'cwd-balance': Arm('CWD, balance hook', 'cwd', changes=_BALANCE, against='cwd'),
    'akd-cwd-balance': Arm('AKD on CWD, balance hook', 'cwd', _BOTH, changes=_BALANCE,
                           against='cwd-balance'),
    'fgd': Arm('FGD', 'fgd', tasks=('det', )),
    'kd': Arm('KD', 'kd', tasks=('seg', )),
    'ewkd': Arm('entropy-weighted KD', 'ewkd', tasks=('seg', )),
    'distcorr': Arm('distributions and their correlation', 'distcorr', tasks=('seg', )),
}
ARMS = {**HEADLINE, **REGIMES, **REST}
# What else is compared, beside each arm with the one it is against: variants with AKD, real
# teachers with as many Avatars, and AKD's own setting on digits with CWD at the same one.
ALSO_COMPARED = (*((arm, 'akd-cwd') for arm in VARIANTS),
                 ('two-teachers', 'akd-cwd-k2'), ('akd-cwd-own', 'cwd-tau2'))

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import HOOKS, MODELS

import mmakd  # noqa: F401
from mmakd.hooks import DistillationScheduleHook
from mmakd.losses import ChannelWiseDivergence, UncertaintyFeatureLoss
from mmakd.utils.build import build, find_type, wrong_types
from mmakd.utils.errors import ConfigError, ConfigProblems, suggest


@MODELS.register_module()
class Picky:
    """A user's component that checks its arguments in its own way."""

    def __init__(self, error):
        raise error


@MODELS.register_module()
class TakesAnything:

    def __init__(self, **kwargs):
        self.kwargs = kwargs


def test_one_problem_is_the_message():
    error = ConfigError('tau=0: must be > 0')
    assert str(error) == 'tau=0: must be > 0'
    assert error.problems == ['tau=0: must be > 0']


def test_several_problems_are_numbered():
    error = ConfigError(['a=1: wrong', 'b=2: wrong too'])
    assert str(error) == '2 problems in the config:\n  1. a=1: wrong\n  2. b=2: wrong too'
    assert error.problems == ['a=1: wrong', 'b=2: wrong too']


def test_problems_are_collected_under_their_keys():
    problems = ConfigProblems()
    reached = []
    with problems.under('model'):
        inner = ConfigProblems()
        with inner.under('loss'):
            raise ConfigError(['tau=0: wrong', 'eps=0: wrong'])
        inner.add('tap: missing')
        reached.append('after the block')
        inner.raise_if_any()
    problems.add('seed=-1: wrong')
    with pytest.raises(ConfigError) as caught:
        problems.raise_if_any()
    assert reached == ['after the block']
    assert caught.value.problems == [
        'model.loss.tau=0: wrong', 'model.loss.eps=0: wrong', 'model.tap: missing',
        'seed=-1: wrong']


def test_no_problem_raises_nothing_and_other_errors_pass():
    problems = ConfigProblems()
    with problems.under('model'):
        pass
    problems.raise_if_any()
    with pytest.raises(ZeroDivisionError), problems.under('model'):
        1 / 0  # noqa: B018
    assert problems.problems == []


def test_attempt_notes_any_error_under_its_key():
    problems = ConfigProblems()
    with problems.attempt('a.b'):
        raise ConfigError(['=3: wrong', 'c=4: wrong'])
    with problems.attempt('d'):
        raise KeyError('missing')
    assert problems.problems == ['a.b=3: wrong', 'a.b.c=4: wrong', 'd: KeyError: missing']


@pytest.mark.parametrize('name, expected', [
    ('linaer', "did you mean 'linear'?"),
    ('consine', "did you mean 'cosine' or 'constant'?"),  # the nearest first
    ('xyz', "valid: 'constant', 'cosine', 'linear'"),
    (5, "valid: 'constant', 'cosine', 'linear'"),
])
def test_suggest(name, expected):
    names = ['linear', 'constant', 'cosine', 'linear']
    assert suggest(name, names) == expected


def test_suggest_does_not_list_too_many():
    assert suggest('?', 'abcdefghijklm') == 'no valid name is near it'


def test_build_takes_defaults_where_the_config_gives_none():
    cfg = ConfigDict(type='ChannelWiseDivergence', tau=2.0)
    criterion = build(cfg, tau=5.0, loss_weight=3.0)
    assert isinstance(criterion, ChannelWiseDivergence)
    assert (criterion.tau, criterion.loss_weight) == (2.0, 3.0)
    assert cfg == dict(type='ChannelWiseDivergence', tau=2.0)


@pytest.mark.parametrize('cfg', [
    dict(type='mmdet.L1Loss', loss_weight=2.0),
    dict(type='L1Loss', loss_weight=2.0, _scope_='mmdet'),
], ids=['prefix', 'scope'])
def test_build_finds_the_components_of_other_packages(cfg):
    loss = build(cfg)(torch.tensor([1., 2.]), torch.tensor([2., 4.]))
    assert loss.item() == 2 * 1.5


def test_build_takes_a_class_and_arguments_it_cannot_check():
    assert build(dict(type=ChannelWiseDivergence, tau=2.0)).tau == 2.0
    assert build(dict(type='TakesAnything', what=1)).kwargs == dict(what=1)


@pytest.mark.parametrize('cfg, message', [
    ('ChannelWiseDivergence', "='ChannelWiseDivergence': expected dict(type=...)"),
    (None, '=None: expected dict(type=...)'),
    (dict(tau=1), "type: missing in {'tau': 1}; name a registered class"),
    (dict(type='ChannelwiseDivergense'), "type='ChannelwiseDivergense': not registered; did you "
                                         "mean 'ChannelWiseDivergence'?"),
    (dict(type='mmdet.L1Los'), "type='mmdet.L1Los': not registered; did you mean "),
    (dict(type='ChannelWiseDivergence', temperatur=1, tao=1),
     'temperatur=1: ChannelWiseDivergence has no such argument; '),
    (dict(type='ChannelWiseDivergence', tao=1),
     "tao=1: ChannelWiseDivergence has no such argument; did you mean 'tau'?"),
    (dict(type='ChannelWiseDivergence', tau=0), 'tau=0: must be a number > 0, e.g. 1.0'),
    (dict(type='Picky'), "type='Picky': "),
    *((dict(type='Picky', error=error('too loud')), f"type='Picky': {error.__name__}: too loud")
      for error in (AssertionError, TypeError, ValueError)),
])
def test_build_names_what_is_wrong(cfg, message):
    with pytest.raises(ConfigError) as caught:
        build(cfg)
    assert any(problem.startswith(message) for problem in caught.value.problems)


def test_build_reports_all_unknown_arguments():
    with pytest.raises(ConfigError) as caught:
        build(dict(type='ChannelWiseDivergence', tao=1, weight=2))
    assert [problem.split(':')[0] for problem in caught.value.problems] == ['tao=1', 'weight=2']


def test_arguments_are_shown_briefly():
    with pytest.raises(ConfigError) as caught:
        build(dict(type='ChannelWiseDivergence', tao=list(range(100))))
    assert len(caught.value.problems[0].split(':')[0]) < 80


@pytest.mark.parametrize(('cfg', 'expected'), [
    (dict(perturb='False'), ["perturb='False': must be bool"]),
    (dict(num_avatars=True), ['num_avatars=True: must be int']),
    (dict(num_avatars='4', perturb=1), [
        "num_avatars='4': must be int", 'perturb=1: must be bool']),
    (dict(loss_weight=2, uncertainty=None, criterion=dict(type='PKDLoss')), []),
    (dict(level=None), ['level=None: must be int']),
])
def test_wrong_types(cfg, expected):
    assert wrong_types(cfg, UncertaintyFeatureLoss) == expected


def test_wrong_types_of_lists():
    assert wrong_types(dict(tasks=['a', 3]), DistillationScheduleHook) == [
        "tasks=['a', 3]: must be Sequence[str] | None"]
    assert wrong_types(dict(tasks=('a', )), DistillationScheduleHook) == []


def test_find_type_looks_in_the_registry_it_is_given():
    assert find_type(dict(type='PerturbationHook'), HOOKS).__name__ == 'PerturbationHook'
    with pytest.raises(ConfigError, match="type='PerturbationHook': not registered"):
        find_type(dict(type='PerturbationHook'))
    with pytest.raises(ConfigError, match='type=3: expected the name of a registered class'):
        find_type(dict(type=3))

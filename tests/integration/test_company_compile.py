"""``compile`` in the config: the student is compiled, and its taps still see every step."""
import pytest
import torch
from torch._dynamo.utils import counters

from .comparison import logged
from .small_models import small_config, with_distillation

SCHEDULE = dict(type='DistillationScheduleHook', begin=1)


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def assert_close(compiled, plain):
    assert counters['stats']['unique_graphs'] > 3
    losses = logged(compiled)
    for key, values in logged(plain).items():
        assert losses[key] == pytest.approx(values, rel=1e-3), key
    for key, value in plain.model.named_parameters():
        torch.testing.assert_close(compiled.model.get_parameter(key), value, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_compiled_student(toy, train):
    """The teacher begins in the second step, when the graphs of the student are there already."""
    options = {'default_hooks.distillation_schedule': SCHEDULE, 'train_cfg.val_interval': 100}
    plain = train(toy('seg', 'akd-cwd', iters=3, **options))
    assert not counters['stats']
    compiled = train(toy('seg', 'akd-cwd', iters=3, compile=dict(backend='eager'), **options))
    assert_close(compiled, plain)
    assert [loss > 0 for loss in logged(compiled)['train/distill.loss_logits']] == [
        False, True, True]


@pytest.mark.slow
def test_compiled_student_on_a_transfer_set(toy, train):
    options = {'train_cfg.val_interval': 100}
    plain = train(toy('seg', 'transfer', iters=3, **options))
    assert_close(train(toy('seg', 'transfer', iters=3, compile=dict(backend='eager'), **options)),
                 plain)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['retinanet', 'faster_rcnn'])
def test_compiled_detectors(name, toy, train):
    """Taps in the RoI head and the recorder of its RoIs, four steps."""
    def config(**options):
        cfg = small_config(name, toy, **options)
        cfg.optim_wrapper.clip_grad = dict(max_norm=0.1)
        return with_distillation(cfg, name, loss_weight=1.0)

    assert_close(train(config(compile=dict(backend='eager'))), train(config()))


@pytest.mark.slow
def test_compiled_to_machine_code(toy, train):
    options = {'default_hooks.distillation_schedule': SCHEDULE, 'train_cfg.val_interval': 100}
    plain = train(toy('seg', 'akd-cwd', **options))
    assert_close(train(toy('seg', 'akd-cwd', compile=True, **options)), plain)

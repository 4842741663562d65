import pytest
from mmengine.config import Config

from mmakd.checks.inspection import describe_batch
from mmakd.utils.errors import ConfigProblems


def config(batch=2, base=16, steps=1, enable=False):
    return Config(dict(
        train_dataloader=dict(batch_size=batch),
        optim_wrapper=dict(type='OptimWrapper', accumulative_counts=steps),
        auto_scale_lr=dict(enable=enable, base_batch_size=base) if base else dict()))


@pytest.mark.parametrize(('cfg', 'gpus', 'words', 'warned'), [
    (config(), None, '2 images x 1 GPU = 2; the learning rate is meant for 16 '
     '(auto_scale_lr.base_batch_size), so for 8 GPUs', False),
    (config(), 1, '2 images x 1 GPU = 2; the learning rate is meant for 16 '
     '(auto_scale_lr.base_batch_size), so for 8 GPUs', True),
    (config(), 8, '2 images x 8 GPUs = 16, as the learning rate is meant for', False),
    (config(steps=2), 4, '2 images x 4 GPUs x 2 accumulated steps = 16, as the learning rate is '
     'meant for', False),
    (config(batch=3), 2, '3 images x 2 GPUs = 6; the learning rate is meant for 16 '
     '(auto_scale_lr.base_batch_size)', True),
    (config(enable=True), 4, '2 images x 4 GPUs = 8; the learning rate is meant for 16 '
     '(auto_scale_lr.base_batch_size), so for 8 GPUs; it is scaled by 0.5', False),
    (config(base=None), 4, '2 images x 4 GPUs = 8; the config does not say what batch its '
     'learning rate is meant for', False),
])
def test_batch(cfg, gpus, words, warned):
    findings = ConfigProblems()
    assert describe_batch(cfg, gpus, findings) == words
    assert bool(findings.warnings) == warned


def test_the_warning_says_how_to_scale():
    findings = ConfigProblems()
    describe_batch(config(), 4, findings)
    assert findings.warnings[0].endswith('or multiply the learning rate by 0.5')

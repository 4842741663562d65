"""`tools/study.py why`: it changes no student, and measures what it says."""
import copy
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

import trials.explanation
from mmakd.hooks.measured_module import find_measured_module
from mmakd.losses.seeded_draws import SeededDraws
from mmakd.utils.rng import mix_seed, seed_rng
from trials.explanation import NUM_AVATARS, measure_agreement, measure_gradients
from trials.tasks import TASKS

MEASURED = {'default_hooks.explanation': dict(type='ExplanationHook', interval=2)}


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch):
    monkeypatch.setattr(trials.explanation, '_NUM_BATCHES', 2)


@pytest.mark.parametrize('task', TASKS)
def test_student_is_the_same_bit_for_bit(task, toy, train):
    plain = train(toy(task, 'akd-cwd'))
    measured = train(toy(task, 'akd-cwd', **MEASURED))
    hub = measured.message_hub
    assert [note['iter'] for note in hub.get_info('why_gradients')] == [0, 1, 2, 3]
    assert [note['iter'] for note in hub.get_info('why_sigma')] == [0, 2]
    loss = next(iter(measured.model.distiller.values())).losses
    assert len(hub.get_info('why_sigma')[0]['levels']) == len(loss)
    expected = plain.model.state_dict()
    for name, value in measured.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_resumed_training_measures_the_same(toy, train):
    changes = {**MEASURED, 'default_hooks.checkpoint.interval': 2,
               'default_hooks.exact_resume': dict(type='ExactResumeHook')}
    whole = train(toy('seg', 'akd-cwd', **changes))
    cfg = toy('seg', 'akd-cwd', **changes)
    cfg.resume, cfg.load_from = True, f'{whole.work_dir}/iter_2.pth'
    resumed = train(cfg)
    for name in 'why_sigma', 'why_gradients':
        assert resumed.message_hub.get_info(name) == whole.message_hub.get_info(name)


def load(cfg, role, number):
    loader = dict(cfg[f'{role}_dataloader'], batch_size=4)
    return list(islice(Runner.build_dataloader(loader, seed=0), number))


def test_gradients_are_those_of_explicit_backward_passes(toy, model):
    distiller = model('seg', 'akd-cwd').train()
    before = copy.deepcopy(distiller.state_dict())
    batches = load(toy('seg', 'akd-cwd'), 'train', 2)
    found = measure_gradients(distiller, batches)
    for name, value in distiller.state_dict().items():
        assert torch.equal(value, before[name]), name
    layer = find_measured_module(distiller.student, None)
    gradients = np.array([
        [step(distiller, layer, batch, number, draw, 'distill.') for draw in range(NUM_AVATARS)]
        for number, batch in enumerate(batches)])
    of_task = [step(distiller, layer, batch, number, 0, '')
               for number, batch in enumerate(batches)]
    assert found['distill'] == pytest.approx(norm(gradients).mean(), rel=1e-3)
    assert found['task'] == pytest.approx(norm(of_task).mean(), rel=1e-3)
    mean = gradients.mean(1)
    square = (norm(mean)**2).mean()
    draws = (norm(gradients - mean[:, None])**2).sum() / (NUM_AVATARS - 1) / len(batches)
    assert found['draws'] == pytest.approx(draws / square, rel=1e-3)
    assert found['batches'] == pytest.approx(norm(mean[0] - mean[1])**2 / 2 / square, rel=1e-3)
    assert 0 < found['draws'] < found['batches']


def step(model, layer, batch, number, draw, kind):
    """Take the gradient of the losses of a kind in one step of a copy."""
    model = copy.deepcopy(model)
    seed_rng(number)
    for module in model.modules():
        if isinstance(module, SeededDraws):
            module.reseed(mix_seed(number, draw))
    losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    model.parse_losses({name: value for name, value in losses.items()
                        if name.startswith('distill.') == bool(kind)})[0].backward()
    return torch.cat([weight.grad.flatten() for weight in
                      model.student.get_submodule(layer).parameters()]).numpy()


def norm(vectors):
    return np.linalg.norm(vectors, axis=-1)


def test_without_avatars_nothing_is_drawn(toy, model):
    found = measure_gradients(model('seg', 'cwd').train(), load(toy('seg', 'cwd'), 'train', 2))
    assert found['draws'] == 0
    assert found['batches'] > 0


# With a student that predicts the same at all positions.
@pytest.mark.parametrize(('task', 'layer'), [('seg', 'decode_head.conv_seg'),
                                             ('det', 'bbox_head.retina_cls')])
def test_agreement(task, layer, toy, model):
    distiller = model(task, 'akd-cwd').eval()
    loader = load(toy(task, 'akd-cwd'), 'val', 2)
    teacher, = distiller.teachers.values()
    with torch.no_grad():
        of_student = distiller.student.get_submodule(layer)
        of_student.weight.zero_()
        of_student.bias.copy_(torch.linspace(-2, 1, len(of_student.bias)))
        of_teacher = teacher.network.get_submodule(layer)
        torch.nn.init.normal_(of_teacher.weight, std=0.3)
        # Each class at some positions.
        of_teacher.bias -= logits_of(teacher.network, layer, loader, task).mean(0)
        of_teacher.bias -= 3 if task == 'det' else 0
        found = measure_agreement(distiller, loader)
        taught = logits_of(teacher.network, layer, loader, task).double()
    learned = of_student.bias.double().expand_as(taught)
    if task == 'seg':
        agree = (taught.argmax(1) == len(of_student.bias) - 1).double().mean()
        p, q = taught.softmax(1), learned.softmax(1)
        divergence = (p * (p / q).log()).sum(1).mean()
    else:
        p, q = taught.sigmoid(), learned.sigmoid()
        agree = (p >= 0.05).double().mean()  # all of the student's scores are at least that
        divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert 0.05 < agree < 0.95
    assert found['agreement'] == pytest.approx(agree.item())
    assert found['divergence'] == pytest.approx(divergence.item(), rel=1e-4)
    teacher.network = distiller.student
    assert measure_agreement(distiller, loader) == dict(agreement=1, divergence=0)


def logits_of(network, layer, loader, task):
    """Predict (n, C): of all pixels, or at all positions of the anchors."""
    maps = []
    handle = network.get_submodule(layer).register_forward_hook(
        lambda module, args, output: maps.append(output))
    samples = [sample for batch in loader for sample in network.val_step(copy.deepcopy(batch))]
    handle.remove()
    if task == 'seg':
        maps = [torch.stack([sample.seg_logits.data for sample in samples])]
    channels = maps[0].size(1)
    return torch.cat([part.movedim(1, -1).reshape(-1, channels) for part in maps])

"""Smoothed labels, read back from the gradient, against independent formulas."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, PixelData

from mmakd.losses import BetaSmoothingLoss
from mmakd.losses.features import run_loss
from mmakd.utils.errors import ConfigError

N, C, SIZE = 2, 5, (40, 30)


@pytest.fixture
def maps():
    """Logits of student and average."""
    generator = torch.Generator().manual_seed(0)
    student, average = (2 * torch.randn(N, C, *SIZE, generator=generator) for _ in range(2))
    return student.requires_grad_(), average


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(1)
    found = torch.randint(0, C, (N, *SIZE), generator=generator)
    found[:, :3] = 255
    return found


def samples(labels):
    return [BaseDataElement(gt_sem_seg=PixelData(data=label[None])) for label in labels]


def run(loss, student, average, labels):
    return run_loss(loss, student, average, samples(labels))


def smoothed_labels(loss, student, average, labels):
    """The targets (P, C): with only them, the gradient of a logit is (q - target) / P."""
    run(loss, student, average, labels).backward()
    known = labels != 255
    assert not student.grad.movedim(1, -1)[~known].any()
    gradient = student.grad.movedim(1, -1)[known]
    return student.detach().softmax(1).movedim(1, -1)[known] - len(gradient) * gradient


@pytest.mark.parametrize('a, b', [(3.0, 1.0), (2.0, 5.0), (0.5, 0.5)])
def test_labels_follow_the_confidence(a, b, maps, labels):
    student, average = maps
    targets = smoothed_labels(BetaSmoothingLoss(1.0, a, b), student, average, labels)
    known = labels != 255
    true = labels[known].unsqueeze(1)
    amounts = targets.gather(1, true).squeeze(1)
    others = targets.scatter(1, true, float('nan'))
    others = others[~others.isnan()].view(-1, C - 1)
    torch.testing.assert_close(others, ((1 - amounts) / (C - 1))[:, None].expand_as(others),
                               rtol=0, atol=1e-3)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)), rtol=0, atol=1e-3)
    confidence = average.softmax(1).movedim(1, -1)[known].gather(1, true).squeeze(1)
    in_order = amounts[confidence.argsort()]
    assert (in_order.diff() > -1e-3).all()
    # Mean and variance of Beta(a, b).
    assert amounts.mean().item() == pytest.approx(a / (a + b), abs=0.03)
    assert amounts.var().item() == pytest.approx(a * b / ((a + b)**2 * (a + b + 1)), rel=0.1)


def test_without_smoothing_it_is_the_cross_entropy(maps, labels):
    student, average = maps
    value = run(BetaSmoothingLoss(0.0, loss_weight=2.0), student, average, labels)
    torch.testing.assert_close(value, 2 * F.cross_entropy(student, labels, ignore_index=255))


def test_equal_amounts_are_label_smoothing(maps, labels):
    """A Beta distribution without variance has b_i = 1/2 everywhere."""
    student, average = maps
    value = run(BetaSmoothingLoss(0.6, 1e7, 1e7), student, average, labels)
    known = labels != 255
    logits, true = student.movedim(1, -1)[known], labels[known]
    soft = torch.full((len(true), C), 0.5 / (C - 1)).scatter(1, true[:, None], 0.5)
    expected = 0.4 * F.cross_entropy(logits, true) + 0.6 * F.cross_entropy(logits, soft)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)


def test_logits_are_resized_to_the_labels(maps, labels):
    student, average = (part[:, :, ::4, ::3] for part in maps)
    assert student.shape[2:] == (10, 10)
    value = run(BetaSmoothingLoss(0.0), student, average, labels)
    larger = F.interpolate(student, SIZE, mode='bilinear')
    torch.testing.assert_close(value, F.cross_entropy(larger, labels, ignore_index=255))


def test_draws(maps, labels):
    """They repeat with the seed, differ between calls, and leave the global stream alone."""
    student, average = maps
    loss = BetaSmoothingLoss()
    state = torch.get_rng_state()
    values = []
    for seed in (3, 3, 4):
        loss.reseed(seed)
        values.append([run(loss, student, average, labels).item() for _ in range(2)])
    assert values[0] == values[1] != values[2]
    assert values[0][0] != values[0][1]
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_without_a_label(maps, labels):
    student, average = maps
    value = run(BetaSmoothingLoss(), student, average, torch.full_like(labels, 255))
    assert value == 0
    value.backward()
    assert not student.grad.any()


@pytest.mark.parametrize('options, starts', [
    (dict(alpha=1.1), ['alpha=1.1: must be a number from 0 to 1']),
    (dict(alpha='x', a=0, b=-1), ['a=0: must be a number > 0', 'b=-1: must be', "alpha='x': "]),
    (dict(loss_weight=-1), ['loss_weight=-1: must be']),
])
def test_bad_arguments_are_named(options, starts):
    with pytest.raises(ConfigError) as caught:
        BetaSmoothingLoss(**options)
    for problem, start in zip(caught.value.problems, starts, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize('task, changes, message', [
    ('det', {'model.distill.cls.loss': dict(_delete_=True, type='BetaSmoothingLoss')},
     'BetaSmoothingLoss needs labels, gt_sem_seg of each data sample'),
    ('seg', {'model.distill.logits.loss': dict(_delete_=True, type='BetaSmoothingLoss'),
             'model.student.decode_head.num_classes': 1,
             'model.student.decode_head.out_channels': 1,
             'model.student.decode_head.threshold': 0.3},
     'BetaSmoothingLoss needs two classes or more'),
])
def test_wrong_place_is_named(task, changes, message, model):
    with pytest.raises(ConfigError) as caught:
        model(task, 'meanteacher', **changes)
    problem, = caught.value.problems
    name = 'cls' if task == 'det' else 'logits'
    assert problem.startswith(f'model.distill.{name}.loss: BetaSmoothingLoss fails on ')
    assert message in problem

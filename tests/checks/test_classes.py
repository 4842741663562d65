import pytest
from torch import nn

from mmakd.checks.classes import check_classes, find_class_numbers
from mmakd.distillers.assembly import build_network
from mmakd.utils.errors import ConfigError, ConfigProblems


class Head(nn.Module):

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def network(**numbers):
    """A network with heads of these numbers of classes; a list makes a cascade."""
    net = nn.Module()
    for name, number in numbers.items():
        net.add_module(name, nn.ModuleList(map(Head, number)) if isinstance(number, list)
                       else Head(number))
    return net


def check(train=('a', 'b', 'c'), checkpoint=(), networks=None, **more):
    findings = ConfigProblems()
    metainfo = dict(train=dict(classes=train, palette=[[0, 0, 0]] * 3), **more)
    check_classes(metainfo, networks or {}, dict(teacher=dict(checkpoint)), findings)
    return findings


def test_class_numbers_of_heads():
    net = network(bbox_head=[80, 80], rpn_head=1, auxiliary_head=19, backbone=1000)
    assert find_class_numbers(net) == {'bbox_head.0': 80, 'bbox_head.1': 80, 'auxiliary_head': 19}
    net = build_network('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py')
    assert set(find_class_numbers(net).values()) == {19}


def test_all_agree():
    nets = dict(student=network(bbox_head=3), teacher=network(bbox_head=[3, 3]))
    findings = check(networks=nets, val=dict(classes=['a', 'b', 'c']),
                     checkpoint=dict(classes=('a', 'b', 'c'), palette=[(0, 0, 0)] * 3))
    assert findings.problems == findings.warnings == []


def test_student_teacher_and_plain_model():
    nets = dict(student=network(bbox_head=4), teacher=network(bbox_head=5))
    findings = check(networks=nets)
    assert [text.split(':')[0] for text in findings.problems + findings.warnings] == [
        'model.student.bbox_head.num_classes=4', 'model.teacher.bbox_head.num_classes=5']
    assert len(findings.problems) == 1
    assert check(networks=dict(model=network(decode_head=2))).problems[0].startswith(
        'model.decode_head.num_classes=2: ')


def test_each_of_several_teachers():
    nets = {'teacher.big': network(bbox_head=3), 'teacher.other': network(bbox_head=5)}
    findings = ConfigProblems()
    check_classes(dict(train=dict(classes=['a', 'b', 'c'])), nets,
                  {'teacher.big': dict(classes=['a', 'b']), 'teacher.other': {}}, findings)
    assert [text.split(': ')[0] for text in findings.warnings] == [
        'model.teacher.other.cfg.bbox_head.num_classes=5', 'model.teacher.big.ckpt']
    assert findings.problems == []


def test_box_heads_of_panoptic_data():
    info = dict(classes=tuple('abcde'), thing_classes=('a', 'b'), stuff_classes=('c', 'd', 'e'))
    findings = ConfigProblems()
    check_classes(dict(train=info), dict(model=network(bbox_head=2, mask_head=5)), {}, findings)
    assert findings.problems == []
    check_classes(dict(train=info), dict(model=network(bbox_head=3)), {}, findings)
    assert len(findings.problems) == 1


@pytest.mark.parametrize(('classes', 'expected'), [
    (('a', 'b'), '2 classes there, 3 here'),
    (('a', 'x', 'y'), "class 1 is 'x' there, 'b' here"),
])
def test_splits_and_checkpoint_differ(classes, expected):
    findings = check(val=dict(classes=classes), checkpoint=dict(classes=classes))
    assert findings.problems[0].endswith(expected) and findings.warnings[0].endswith(expected)


def test_palettes():
    assert '3 colours for 4 classes' in check(train=tuple('abcd')).problems[0]
    other = dict(classes=tuple('abc'), palette=[(1, 1, 1)] * 3)
    assert 'its palette is not that' in check(checkpoint=other).warnings[0]


def test_classes_must_be_a_list():
    with pytest.raises(ConfigError, match='classes=3: expected a list of names'):
        check(train=3)


def test_nothing_known_nothing_said():
    findings = ConfigProblems()
    check_classes({}, dict(student=network(bbox_head=4)), dict(teacher=dict(classes=None)),
                  findings)
    assert findings.problems == findings.warnings == []

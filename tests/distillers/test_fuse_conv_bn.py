"""Folding BatchNorm into convolutions: which are folded, and that the features stay."""
import pytest
import torch
from mmcv.cnn import ConvModule, ConvWS2d, bricks
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmakd.distillers.fuse_conv_bn import fuse_conv_bn
from mmakd.distillers.taps import FeatureTaps, forward_to_taps
from tests.distillers.norms import assert_close, randomize_norms
from tests.integration.small_models import small_model

IMAGES = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(3))


def fuse(network, images=IMAGES, kept=()):
    """Fold, and give the number with the features before and after."""
    before = network(images)
    number = fuse_conv_bn(network, lambda: [network(images)], kept)
    return number, before, network(images)


def assert_untouched(network, **options):
    """Nothing is folded: modules, weights and features are the same, bit for bit."""
    modules = dict(network.named_modules())
    state = {key: value.clone() for key, value in network.state_dict().items()}
    number, before, after = fuse(network, **options)
    assert number == 0
    assert torch.equal(before, after)
    assert dict(network.named_modules()) == modules
    assert list(network.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks
                   for module in network.modules())


class Wired(nn.Module):
    """Named layers and how the image goes through them."""

    def __init__(self, wiring, **layers):
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)
        randomize_norms(self)

    def forward(self, images):
        return self.wiring(self, images)


def conv(*sizes, **options):
    return nn.Conv2d(*sizes or (3, 4), 3, padding=1, **options)


NORMS = {
    'BatchNorm2d': lambda: nn.BatchNorm2d(4),
    'without affine': lambda: nn.BatchNorm2d(4, affine=False),
    'large eps': lambda: nn.BatchNorm2d(4, eps=0.1),
    'SyncBatchNorm': lambda: nn.SyncBatchNorm(4),
    'reverted SyncBatchNorm': lambda: revert_sync_batchnorm(nn.SyncBatchNorm(4)),
}


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('kind', NORMS)
def test_norms(kind, bias):
    network = randomize_norms(nn.Sequential(conv(bias=bias), NORMS[kind](), nn.ReLU(inplace=True)))
    names = [name for name, _ in network.named_modules()]
    number, before, after = fuse(network)
    assert number == 1
    assert_close(after, before)
    assert [name for name, _ in network.named_modules()] == names
    assert type(network[1]) is nn.Identity
    assert set(network.state_dict()) == {'0.weight', '0.bias'}
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize('make', [
    lambda: conv(3, 6, groups=3, stride=2), lambda: conv(3, 6, padding_mode='reflect'),
    lambda: bricks.Conv2d(3, 6, 3, dilation=2), lambda: nn.Conv2d(3, 6, 1)])
def test_convolutions(make):
    network = randomize_norms(nn.Sequential(make(), nn.BatchNorm2d(6)))
    number, before, after = fuse(network)
    assert number == 1
    assert_close(after, before)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_weights_keep_their_memory_format(memory_format):
    network = randomize_norms(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    network.to(memory_format=memory_format)
    number, *_ = fuse(network)
    assert number == 1
    assert network[0].weight.is_contiguous(memory_format=memory_format)


def test_names_beside_the_folded_ones_stay():
    network = Wired(lambda net, x: net.last(net.norm(net.first(x)).relu()),
                    first=conv(bias=False), norm=nn.BatchNorm2d(4), last=conv(4, 5))
    number, before, after = fuse(network)
    assert number == 1
    assert_close(after, before)
    assert list(network.state_dict()) == ['first.weight', 'first.bias', 'last.weight', 'last.bias']


def test_other_image_sizes_agree_too():
    networks = [randomize_norms(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.SiLU(), conv(4, 4),
                                        nn.BatchNorm2d(4))) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    assert fuse(networks[0])[0] == 2
    images = torch.randn(1, 3, 9, 23)
    assert_close(networks[0](images), networks[1](images))


def test_layers_called_several_times_together():
    """As a head that is shared by the levels of a pyramid, with one norm for all of them."""
    network = Wired(lambda net, x: net.norm(net.conv(x)).relu().mean() + net.norm(
        net.conv(x[..., ::2])), conv=conv(), norm=nn.BatchNorm2d(4))
    number, before, after = fuse(network)
    assert number == 1
    assert_close(after, before)


def test_statistics_of_the_batch_are_not_folded():
    assert_untouched(randomize_norms(nn.Sequential(conv(), nn.BatchNorm2d(
        4, track_running_stats=False))))


def twice(module):
    return nn.Sequential(module, module)


WIRINGS = {
    'a convolution before two norms': lambda: Wired(
        lambda net, x: net.norm1(net.conv(x)) + net.norm2(net.conv(x[..., :1])),
        conv=conv(), norm1=nn.BatchNorm2d(4), norm2=nn.BatchNorm2d(4)),
    'one output before two norms': lambda: Wired(
        lambda net, x: (lambda y: net.norm1(y) - net.norm2(y))(net.conv(x)),
        conv=conv(), norm1=nn.BatchNorm2d(4), norm2=nn.BatchNorm2d(4)),
    'a norm after two convolutions': lambda: Wired(
        lambda net, x: net.norm(net.conv1(x)) + net.norm(net.conv2(x)),
        conv1=conv(), conv2=conv(), norm=nn.BatchNorm2d(4)),
    'a convolution also without its norm': lambda: Wired(
        lambda net, x: net.norm(net.conv(x)) + net.conv(x[..., :1]),
        conv=conv(), norm=nn.BatchNorm2d(4)),
    'a norm also without its convolution': lambda: Wired(
        lambda net, x: net.norm(net.conv(x)) + net.norm(x[:, :1].expand(-1, 4, -1, -1)),
        conv=conv(), norm=nn.BatchNorm2d(4)),
    'a reader beside the norm': lambda: Wired(
        lambda net, x: (lambda y: net.norm(y) + y)(net.conv(x)),
        conv=conv(), norm=nn.BatchNorm2d(4)),
    'a faint reader beside the norm': lambda: Wired(
        lambda net, x: (lambda y: net.norm(y) + 0.01 * y)(net.conv(x)),
        conv=conv(), norm=nn.BatchNorm2d(4)),
    'an activation between': lambda: Wired(
        lambda net, x: net.norm(net.conv(x).relu()), conv=conv(), norm=nn.BatchNorm2d(4)),
    'a norm called by keyword': lambda: Wired(
        lambda net, x: net.norm(input=net.conv(x)), conv=conv(), norm=nn.BatchNorm2d(4)),
    'pre-activation': lambda: Wired(
        lambda net, x: net.conv(net.norm(x).relu()), norm=nn.BatchNorm2d(3), conv=conv()),
    'standardised weights': lambda: Wired(
        lambda net, x: net.norm(net.conv(x)), conv=ConvWS2d(3, 4, 3), norm=nn.BatchNorm2d(4)),
    'spectral norm': lambda: ConvModule(3, 4, 3, norm_cfg=dict(type='BN'),
                                        with_spectral_norm=True),
    'a transposed convolution': lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4)),
    'another kind of norm': lambda: nn.Sequential(conv(), nn.GroupNorm(2, 4)),
}


HELD_TWICE = {
    'a norm that is in a list as well': lambda: Wired(
        lambda net, x: (lambda y: net.hidden[0](y))(net.conv(x)),
        conv=conv(), norm=nn.BatchNorm2d(4)),
    'a norm at two places': lambda: Wired(
        lambda net, x: net.norm(net.conv(x)), conv=conv(), **dict.fromkeys(
            ('norm', 'same'), nn.BatchNorm2d(4))),
    'a convolution at two places': lambda: Wired(
        lambda net, x: net.norm(net.conv(x)), **dict.fromkeys(('conv', 'same'), conv()),
        norm=nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize('wiring', HELD_TWICE)
def test_layer_held_at_two_places_is_folded_at_both(wiring):
    network = HELD_TWICE[wiring]()
    # Past nn.Module's table, as code that keeps its layers in a plain list.
    network.__dict__['hidden'] = [network.norm]
    number, before, after = fuse(network)
    assert number == 1
    assert_close(after, before)
    assert type(network.norm) is nn.Identity and network.hidden[0] is network.norm
    assert not list(network.norm.parameters()) and not list(network.norm.buffers())


@pytest.mark.parametrize('wiring', WIRINGS)
def test_what_is_not_folded(wiring):
    network = randomize_norms(WIRINGS[wiring]())
    if wiring == 'spectral norm':
        number, before, after = fuse(network)
        assert number == 0 and torch.equal(before, after)
    else:
        assert_untouched(network)


def test_one_reader_keeps_all_apart(caplog):
    network = Wired(lambda net, x: (lambda y: net.norm2(y) + y)(net.conv2(net.norm1(net.conv1(
        x)))), conv1=conv(bias=False), norm1=nn.BatchNorm2d(4), conv2=conv(4, 4),
        norm2=nn.BatchNorm2d(4))
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    assert_untouched(network)
    logger.removeHandler(caplog.handler)
    warning, = (record for record in caplog.records if record.levelname == 'WARNING')
    assert 'BatchNorm stays apart from the convolutions of Wired' in warning.getMessage()


def test_activation_in_place_between_stops_no_other_pair():
    """As mmcv's ConvModule of order conv, act, norm."""
    network = randomize_norms(nn.Sequential(
        ConvModule(3, 4, 3, norm_cfg=dict(type='BN')),
        ConvModule(4, 5, 3, norm_cfg=dict(type='BN'), order=('conv', 'act', 'norm'))))
    number, before, after = fuse(network)
    assert number == 1
    assert_close(after, before)
    assert type(network[0].bn) is nn.Identity and isinstance(network[1].bn, _BatchNorm)


@pytest.mark.parametrize('hooked', [0, 1])
@pytest.mark.parametrize('register', ['register_forward_hook', 'register_forward_pre_hook'])
def test_hooks_of_others_see_what_they_saw(hooked, register):
    network = randomize_norms(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    seen = []
    getattr(network[hooked], register)(lambda module, *args: seen.append(args[-1]))
    number, before, after = fuse(network)
    assert number == 0 and torch.equal(before, after)
    assert len(seen) >= 3
    first, *_, last = (value[0] if isinstance(value, tuple) else value for value in seen)
    assert torch.equal(first, last)


def test_kept_modules_keep_their_output():
    network = randomize_norms(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4),
                                      nn.BatchNorm2d(4)))
    expected = network[0](IMAGES)
    number, before, after = fuse(network, kept=[network[0]])
    assert number == 1
    assert_close(after, before)
    assert torch.equal(network[0](IMAGES), expected)
    assert [type(network[i]) for i in (1, 4)] == [nn.BatchNorm2d, nn.Identity]


def test_kept_norm_may_be_folded():
    network = randomize_norms(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()))
    seen = network[1](network[0](IMAGES))
    number, *_ = fuse(network, kept=[network[1]])
    assert number == 1
    assert_close(network[1](network[0](IMAGES)), seen)


def test_same_convolutions_at_each_level_and_norms_of_their_own():
    """RTMDet's head shares convolutions between levels, but not their norms."""
    network = randomize_norms(build('rtmdet'))
    head = network.bbox_head
    assert head.cls_convs[0][0].conv is head.cls_convs[1][0].conv
    number, before, after = fuse_taps(network, ['bbox_head.rtm_cls.0', 'bbox_head.rtm_cls.2'])
    assert number > 20
    assert isinstance(head.cls_convs[0][0].bn, _BatchNorm)
    assert type(network.backbone.stem[0].bn) is nn.Identity
    for old, new in zip(before, after):
        assert_close(new, old)


def build(name):
    init_default_scope('mmdet' if name in ('retinanet', 'rtmdet', 'yolox') else 'mmseg')
    torch.manual_seed(0)
    return MODELS.build(small_model(name))


def fuse_taps(network, taps):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))

    def run():
        with FeatureTaps(network, taps) as record:
            forward_to_taps(network, taps, images, None)
        return [feature for maps in record.features.values() for feature in maps]

    before = run()
    number = fuse_conv_bn(network, run)
    return number, before, run()


@pytest.mark.parametrize('name, taps, norms', [
    ('retinanet', ['backbone', 'neck', 'bbox_head.retina_cls'], 20),
    ('yolox', ['neck'], 60), ('pspnet', ['backbone', 'decode_head'], 26),
    ('segformer', ['decode_head'], 5)])
def test_networks_as_shipped(name, taps, norms):
    network = randomize_norms(build(name))
    names = {name for name, _ in network.named_modules()}
    number, before, after = fuse_taps(network, taps)
    assert number >= norms
    assert {name for name, _ in network.named_modules()} == names
    assert sum(type(module) is nn.Identity for module in network.modules()) >= number
    for old, new in zip(before, after):
        assert_close(new, old)

import pytest
import torch

from mmakd.distillers import ConvAdapter
from mmakd.utils.errors import ConfigError


@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_channels_change_and_positions_do_not(kernel_size):
    adapter = ConvAdapter(3, 5, kernel_size)
    assert adapter(torch.randn(2, 3, 7, 4)).shape == (2, 5, 7, 4)
    assert [tuple(p.shape) for p in adapter.parameters()] == [
        (5, 3, kernel_size, kernel_size), (5, )]


def test_default_is_one_matrix_at_every_position():
    adapter, feature = ConvAdapter(3, 5), torch.randn(2, 3, 7, 4)
    matrix, bias = adapter.conv.weight.view(5, 3), adapter.conv.bias
    expected = (feature.movedim(1, -1) @ matrix.T + bias).movedim(-1, 1)
    torch.testing.assert_close(adapter(feature), expected)
    torch.testing.assert_close(adapter(feature[:, :, 0, 0]), expected[:, :, 0, 0])


def test_init_cfg_is_mmengines():
    adapter = ConvAdapter(3, 5, init_cfg=dict(type='Constant', layer='Conv2d', val=2, bias=1))
    adapter.init_weights()
    assert (adapter.conv.weight == 2).all() and (adapter.conv.bias == 1).all()


@pytest.mark.parametrize('kernel_size', [0, 2, 1.0, '3', None])
def test_even_kernel_is_named(kernel_size):
    with pytest.raises(ConfigError, match=r'^kernel_size=.*odd integer'):
        ConvAdapter(3, 5, kernel_size=kernel_size)

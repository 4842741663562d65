"""Pictures of the maps of a task."""
import matplotlib.pyplot as plt
import pytest
import torch
from torch.overrides import TorchFunctionMode

from mmakd.visualization import draw_heat_map, draw_sigma, read_avatar_maps

NUMPY = torch.Tensor.numpy, torch.Tensor.__array__


class LikeAnAccelerator(TorchFunctionMode):
    """Refuses, as for tensors on a GPU, to show NumPy one that was not fetched before."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in NUMPY and not (kwargs or {}).get('force') and args[0] not in self.fetched:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            self.fetched.append(result)
        return result

    def __enter__(self):
        self.fetched = FetchedTensors()
        return super().__enter__()


class FetchedTensors(list):

    def __contains__(self, tensor):
        return any(tensor is other for other in self)


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_maps_of_a_task(model, ax):
    distiller = model('det').eval()
    data = dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)],
                data_samples=None)
    maps = read_avatar_maps(distiller, data, 'fpn', level=1)
    assert maps.teacher.shape == maps.avatars[1].shape == maps.student.shape == (64, 4, 4)
    centre = maps.teacher.mean((1, 2), keepdim=True)
    dropped = maps.avatars[0] == centre
    away, kept_away = maps.teacher - centre, (maps.avatars[0] - centre) * 0.9
    torch.testing.assert_close(kept_away[~dropped], away[~dropped], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps.deviation, away.abs() / 3, rtol=1e-4, atol=1e-5)
    assert maps.sigma.shape == (64, )
    image = draw_heat_map(ax, maps.teacher[maps.most_varied_channel()], limit=2.0)
    assert image.get_clim() == (-2, 2) and image.get_array().shape == (4, 4)


def test_maps_that_lie_on_an_accelerator(ax):
    values, sigma = torch.randn(4, 4), torch.rand(3)
    with LikeAnAccelerator():
        image = draw_heat_map(ax, values, limit=1.0, signed=False)
        draw_sigma(ax, sigma, marked=[1], names=['a', 'b', 'c'])
    assert image.get_array().data.tolist() == values.tolist()
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(sigma.tolist())

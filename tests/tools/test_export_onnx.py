"""tools/export_onnx.py on the toy students: files that onnxruntime runs as torch does."""
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import save_checkpoint

import export_onnx
from mmakd.utils.errors import ConfigError

onnx = pytest.importorskip('onnx', reason='torch before 2.6 has not this exporter')
onnxruntime = pytest.importorskip('onnxruntime')
CONFIG = {'det': 'configs/det/toy/{}_retinanet_shapes.py',
          'seg': 'configs/seg/toy/{}_pspnet_shapes.py'}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def distilled(model, workspace):
    """Save a distilled student: ``network, path = distilled('det')``."""

    def save(task):
        network = model(task)
        for name, buffer in network.named_buffers():  # else BatchNorm changes next to nothing
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
        path = workspace / f'{task}.pth'
        save_checkpoint(dict(state_dict=network.state_dict(),
                             meta=dict(dataset_meta=dict(classes=('disk', 'crate')))), str(path))
        return network.eval(), path

    return save


def config(task, name='akd-cwd'):
    return str(ROOT / CONFIG[task].format(name))


@pytest.mark.parametrize(('task', 'number'), [('det', 6), ('seg', 1)])
def test_outputs_are_torchs(task, number, distilled, capsys):
    network, checkpoint = distilled(task)
    assert export_onnx.main([config(task), str(checkpoint), 'out/student.onnx',
                             '--size', '64', '96']) == 0
    assert 'images N x 3 x 64 x 96' in capsys.readouterr().out
    # Another number of images than it was exported with.
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        outputs = network(images, mode='tensor')
    expected = [outputs] if task == 'seg' else [level for kind in outputs for level in kind]
    session = onnxruntime.InferenceSession('out/student.onnx')
    found = session.run(None, dict(images=images.numpy()))
    assert len(found) == len(expected) == number
    for value, output in zip(found, expected):
        np.testing.assert_allclose(value, output.numpy(), rtol=1e-4,
                                   atol=1e-5 * float(output.abs().max()))


def test_metadata_and_default_size(distilled, capsys):
    _, checkpoint = distilled('det')
    assert export_onnx.main([config('det', 'student'), str(checkpoint), 'a.onnx']) == 0
    assert 'images N x 3 x 96 x 96' in capsys.readouterr().out  # the Resize of its test pipeline
    found = {entry.key: entry.value for entry in onnx.load('a.onnx').metadata_props}
    assert found['channel_order'] == 'RGB'
    assert found['mean'] == '123.675, 116.28, 103.53'
    assert found['classes'] == 'disk, crate'
    with pytest.raises(ConfigError, match=r"OUT='a.onnx': exists; .*--force"):
        export_onnx.main([config('det'), str(checkpoint), 'a.onnx'])


def test_wrong_input(distilled, model):
    _, checkpoint = distilled('seg')
    with pytest.raises(ConfigError, match=r'does not fit model.student .RetinaNet.*keys missing'):
        export_onnx.main([config('det'), str(checkpoint), 'a.onnx'])
    with pytest.raises(ConfigError, match=r'--size: missing.*no Resize'):
        export_onnx.main([config('seg'), str(checkpoint), 'a.onnx'])
    with pytest.raises(ConfigError, match=r"CKPT='no.pth': no such file"):
        export_onnx.main([config('seg'), 'no.pth', 'a.onnx', '--size', '64', '64'])
    assert not Path('a.onnx').exists()

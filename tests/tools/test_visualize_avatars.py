"""tools/visualize_avatars.py on images and checkpoints of the toy configs."""
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.runner import save_checkpoint

import visualize_avatars
from mmakd.utils.errors import ConfigError
from mmakd.visualization import attention_map

ROOT = Path(__file__).parents[2]
CONFIG = {'det': str(ROOT / 'configs/det/toy/akd-cwd_retinanet_shapes.py'),
          'seg': str(ROOT / 'configs/seg/toy/akd-cwd_pspnet_shapes.py')}
IMAGES = {'det': 'data/shapes/coco/val', 'seg': 'data/shapes/cityscapes/leftImg8bit/val'}
UNTRAINED = ['--cfg-options', 'model.teacher_ckpt=None', '--device', 'cpu']


@pytest.fixture
def checkpoints(model, workspace):
    """Save a distilled and a plain student."""

    def save(task):
        for name in 'akd-cwd', 'student':
            meta = dict(dataset_meta=dict(classes=tuple('abcdef'), palette=[(9, 9, 99)] * 6)
                        if task == 'det' else {})
            save_checkpoint(dict(state_dict=model(task, name).state_dict(), meta=meta),
                            f'{name}.pth')
        return 'akd-cwd.pth', 'student.pth'

    return save


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_pictures(task, checkpoints):
    akd, plain = checkpoints(task)
    images = [str(path) for path in sorted(Path(IMAGES[task]).rglob('*.*g'))[:2]]
    visualize_avatars.main([CONFIG[task], akd, *images, '--compare', f'plain={plain}',
                            '--out-dir', 'pictures', *UNTRAINED])
    name = 'fpn' if task == 'det' else 'logits'
    written = {path.name for path in Path('pictures').iterdir()}
    assert written == {f'{Path(image).stem}_{kind}.png' for image in images
                       for kind in (f'{name}.0', 'attention')}
    picture = mmcv.imread(str(Path('pictures', f'{Path(images[0]).stem}_{name}.0.png')))
    assert picture.shape == (1100, 1600, 3) and picture.std() > 10


def test_attention_is_the_mean_of_absolute_values():
    feature = torch.randn(5, 3, 4)
    expected = np.abs(feature.numpy()).mean(0)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(attention_map(feature).numpy(), expected, rtol=1e-5)
    assert attention_map(torch.ones(2, 3, 3)).eq(0).all()


def test_wrong_input(checkpoints, workspace):
    akd, _ = checkpoints('seg')
    Path('text.png').write_text('no image')
    run = [CONFIG['seg'], akd]
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*'text.png': cannot.*'no.png': cannot"):
        visualize_avatars.main([*run, 'text.png', 'no.png', *UNTRAINED])
    with pytest.raises(ConfigError, match=r"--task='fpn': tasks with Avatars are 'logits'"):
        visualize_avatars.main([*run, 'text.png', '--task', 'fpn', *UNTRAINED])
    with pytest.raises(ConfigError, match=r"--level=1: task 'logits' compares 1 maps"):
        visualize_avatars.main([*run, 'text.png', '--level', '1', *UNTRAINED])
    with pytest.raises(ConfigError, match=r"CKPT='akd-cwd.pth': does not fit the student"):
        visualize_avatars.main([CONFIG['det'], akd, 'text.png', *UNTRAINED])
    with pytest.raises(ConfigError, match='has no teacher'):
        visualize_avatars.main([CONFIG['seg'].replace('akd-cwd', 'student'), akd, 'text.png'])

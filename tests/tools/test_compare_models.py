"""tools/compare_models.py on the toy detector and segmentor, with a teacher."""
import base64
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.registry import METRICS
from mmengine.runner import Runner, save_checkpoint
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import compare_models
from mmakd.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/compare_models.py'
CONFIG = {'det': 'configs/det/toy/{}_retinanet_shapes.py',
          'seg': 'configs/seg/toy/{}_pspnet_shapes.py'}
LAYER = {'det': 'bbox_head.retina_cls', 'seg': 'decode_head.conv_seg'}
FILES = {'student': 'student', 'akd-cwd': 'AKD student', 'teacher': 'teacher'}
IOU_THRS = np.linspace(0.05, 0.5, 10)
CLASSES = ['disk', 'ladybird', 'ring', 'crate', 'pennant', 'star']


@METRICS.register_module(force=True)
class EasyCocoMetric(CocoMetric):
    """Scores what random networks find, at IoU of 0.05 to 0.5."""

    def __init__(self, **arguments):
        super().__init__(iou_thrs=IOU_THRS, **arguments)


class Page(HTMLParser):
    """What a page shows.

    Attributes:
        rows (dict[str, list[str]]): Cells by the first of their row.
        pictures (list[tuple[str, bytes]]): Descriptions and JPEG files.
        addresses (list[str]): All that a browser would load.
    """

    def __init__(self, text):
        super().__init__()
        self.rows, self.pictures, self.addresses, self.open = {}, [], [], []
        self.cells = []
        self.feed(text)
        self.close()
        self.text = re.sub(r'<style>.*?</style>|<svg.*?</svg>|<[^>]*>', ' ', text,
                           flags=re.DOTALL)
        self.addresses += re.findall(r'(?:url\(|@import)\s*([^)]*)', text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ('meta', 'img', 'path', 'use'):
            self.open.append(tag)
        if tag == 'tr':
            self.cells = []
        self.addresses += [value for name, value in attributes.items()
                           if name in ('src', 'href', 'xlink:href', 'srcset', 'data', 'action')]
        if tag == 'img':
            self.pictures.append((attributes['alt'], base64.b64decode(
                attributes['src'].removeprefix('data:image/jpeg;base64,'), validate=True)))

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()
        if tag == 'tr' and self.cells:
            self.rows.setdefault(self.cells[0], self.cells[1:])

    def handle_data(self, data):
        if self.open and self.open[-1] in ('th', 'td'):
            self.cells.append(data)


@pytest.fixture
def checkpoints(model, workspace):
    """Save networks whose predictions differ from place to place: ``checkpoints('det')``."""

    def save(task, bias=-1.5):  # few boxes have a score that is drawn
        for seed, name in enumerate(FILES):
            network = model(task, name)
            layer = network.get_submodule(LAYER[task])
            torch.manual_seed(seed)
            torch.nn.init.normal_(layer.weight, std=0.3 if task == 'seg' else 0.1)
            torch.nn.init.constant_(layer.bias, bias)
            save_checkpoint(dict(state_dict=network.state_dict()), f'{name}.pth')

    return save


def compare(task, *arguments, config='akd-cwd', student='student.pth', akd='akd-cwd.pth'):
    options = ['--cfg-options', 'val_dataloader.batch_size=5']
    if task == 'det':
        options.append('val_evaluator.type=EasyCocoMetric')
    if config == 'akd-cwd':
        options.append('model.teacher_ckpt=teacher.pth')
    compare_models.main([str(ROOT / CONFIG[task].format(config)), student, akd,
                         '--out', 'pages/page.html', *arguments, *options])
    return Page(Path('pages/page.html').read_text())


def run_test(toy, task, name):
    """Metrics and predictions by a Runner, as of tools/test.py."""
    cfg = toy(task, 'teacher' if name == 'teacher' else 'student', load_from=f'{name}.pth')
    if task == 'det':
        cfg.test_evaluator.update(type='EasyCocoMetric', classwise=True)
    cfg.test_evaluator = [cfg.test_evaluator, dict(type='DetECE' if task == 'det' else 'SegECE')]
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    with torch.no_grad():
        return metrics, [sample for batch in runner.test_dataloader
                         for sample in runner.model.test_step(batch)], runner.model


def image_ap(sample):
    """AP of one image by pycocotools."""
    truth = COCO('data/shapes/coco/annotations/instances_val.json')
    found, categories = sample.pred_instances, truth.getCatIds()
    boxes = found.bboxes.clone()
    boxes[:, 2:] -= boxes[:, :2]
    evaluation = COCOeval(truth, truth.loadRes([
        dict(image_id=sample.img_id, category_id=categories[label], score=score, bbox=box)
        for label, score, box in zip(found.labels.tolist(), found.scores.tolist(),
                                     boxes.tolist())]), 'bbox')
    evaluation.params.imgIds = [sample.img_id]
    evaluation.params.iouThrs = IOU_THRS
    evaluation.params.maxDets = [100, 300, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    return 100 * precision[precision > -1].mean()


def image_iou(sample):
    label, found = (sample.get(f'{kind}_sem_seg').data[0].numpy() for kind in ('gt', 'pred'))
    valid = label != 255
    label, found = label[valid], found[valid]
    return 100 * np.mean([(label == i)[found == i].sum() / ((label == i) | (found == i)).sum()
                          for i in np.union1d(label, found)])


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_its_numbers_are_those_of_tools_test(task, checkpoints, toy, capsys):
    checkpoints(task)
    page = compare(task, '--teacher', '--num-images', '3')
    assert capsys.readouterr().out.splitlines()[-1] == 'pages/page.html'
    metrics, samples, models = zip(*(run_test(toy, task, name) for name in FILES))
    if task == 'det':
        names = {'AP': 'coco/bbox_mAP', 'small': 'coco/bbox_mAP_s',
                 **{name: f'coco/{name}_precision' for name in CLASSES}}
        assert page.rows['medium'] == page.rows['large'] == ['-'] * 4  # there are none
        score = image_ap
    else:
        names, score = {'mIoU': 'mIoU', 'mAcc': 'mAcc', 'aAcc': 'aAcc'}, image_iou
        ring, found = (torch.stack([sample.get(f'{kind}_sem_seg').data for sample in samples[0]])
                       == CLASSES.index('ring') + 1 for kind in ('gt', 'pred'))
        assert page.rows['ring'][0] == f'{100 * (ring & found).sum() / (ring | found).sum():.1f}'
    scale = 100 if task == 'det' else 1
    for row, key in names.items():
        expected = [scale * of_model[key] for of_model in metrics]
        assert page.rows[row][:3] == [f'{value:.1f}' for value in expected]
        assert float(page.rows[row][3]) == pytest.approx(expected[1] - expected[0], abs=0.051)
    assert len({*page.rows[next(iter(names))][:3]}) > 1
    assert page.rows['ECE'][:3] == [f'{of_model["calibration/ECE"]:.4f}' for of_model in metrics]
    assert page.rows['parameters'] == [f'{sum(p.numel() for p in model.parameters()):,}'
                                       for model in models]
    assert float(page.rows['ms for 96 x 96' if task == 'det' else 'ms for 64 x 64'][0]) > 0
    # The images that are shown, and the others between them.
    scores = np.array([[score(sample) for sample in of_model] for of_model in samples])
    change = scores[1] - scores[0]
    order = [*np.argsort(-change)[:min(3, (change > 0.05).sum())],
             *np.argsort(change)[:min(3, (change < -0.05).sum())]]
    expected = [f'{Path(samples[0][i].img_path).name}, {title}' for i in order for title in (
        'truth', *(f'{name}: {value:.1f}' for name, value in zip(FILES.values(), scores[:, i])))]
    assert len(expected) >= 8 and [name for name, _ in page.pictures] == expected
    images = [cv2.imdecode(np.frombuffer(file, np.uint8), 1) for _, file in page.pictures]
    assert {image.shape for image in images} == {(480, 480, 3)}
    assert all((one != other).any() for one, other in zip(images[::4], images[1::4]))


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_the_page_needs_no_other_file(task, checkpoints):
    checkpoints(task)
    page = compare(task, '--num-images', '1', config='student')
    assert page.pictures and not page.open[1:]
    assert all(address.startswith(('data:image/', '#')) for address in page.addresses if address)
    text = Path('pages/page.html').read_text()
    assert set(re.findall(r'[^ ]{7}https?://[^"]*', text)) == {
        'xmlns="http://www.w3.org/2000/svg', 'xlink="http://www.w3.org/1999/xlink'}
    assert '<script' not in text
    # Two models and their difference; a plain config has no teacher.
    assert text.count('>predicted<') == (3 if task == 'seg' else 0)
    assert len(page.rows['ECE']) == 3 and 'student ECE' in text


def test_a_detector_that_finds_nothing(checkpoints):
    checkpoints('det', bias=-10)
    page = compare('det')
    assert page.rows['AP'] == ['0.0', '0.0', '+0.0'] and page.rows['ECE'] == ['-', '-', '-']
    assert not page.pictures and page.text.count('None.') == 2
    assert 'AP gained on 0 and lost on 0 of 8 images' in page.text


def test_the_page_is_not_replaced(checkpoints):
    checkpoints('seg')
    page = Path('pages/page.html')
    page.parent.mkdir()
    page.write_text('mine')
    with pytest.raises(ConfigError, match=r"--out='pages/page.html': exists; .*--force"):
        compare('seg')
    assert page.read_text() == 'mine'
    assert compare('seg', '--force', '--num-images', '1').rows['mIoU']


def test_wrong_input(checkpoints):
    checkpoints('seg')
    with pytest.raises(ConfigError, match=r"STUDENT_CKPT='no.pth': no such file.*\n.*"
                       r"AKD_CKPT='teacher.pth': does not fit model.student \(EncoderDecoder\)"):
        compare('seg', student='no.pth', akd='teacher.pth')
    with pytest.raises(ConfigError, match=r"--teacher: model.type='EncoderDecoder' has no teach"):
        compare('seg', '--teacher', config='student')
    cfg = Config.fromfile(ROOT / CONFIG['seg'].format('akd-cwd'))
    cfg.model.teacher = dict(cfg=str(ROOT / CONFIG['seg'].format('teacher')),
                             decode_head=dict(num_classes=5))
    cfg.model.student = str(ROOT / CONFIG['seg'].format('student'))
    cfg.model.teacher_ckpt = None
    cfg.dump('other.py')
    with pytest.raises(ConfigError, match=r'--teacher: .* leave it out .*num_classes=5'):
        compare_models.main(['other.py', 'student.pth', 'akd-cwd.pth', '--teacher'])
    cfg.val_evaluator = dict(type='SegECE')
    cfg.dump('other.py')
    with pytest.raises(ConfigError, match=r'val_evaluator: scores by no IoUMetric; add'):
        compare_models.main(['other.py', 'student.pth', 'akd-cwd.pth'])


@pytest.mark.parametrize(('arguments', 'status', 'expected'), [
    (['--help'], 0, 'opens from disk and can be mailed'),
    (['config.py', 'a.pth', 'b.pth', '--num-images', '0'], 2, '--num-images must be positive'),
])
def test_command_line(arguments, status, expected, capsys):
    with pytest.raises(SystemExit) as error:
        compare_models.main(arguments)
    assert error.value.code == status and expected in ''.join(capsys.readouterr())


def test_as_a_command(script):
    done = script(sys.executable, TOOL, ROOT / CONFIG['seg'].format('student'), 'no.pth', 'no.pth',
                  check=False)
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert "STUDENT_CKPT='no.pth': no such file; name an existing checkpoint" in done.stdout

"""The commands of docs/own_data.md run as they stand there."""
import os
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/own_data.md').read_text()
_, DRAW, DETECTION, TRY, SEGMENTATION = re.findall(r'```shell\n(.*?)```', PAGE, re.DOTALL)


@pytest.fixture
def follow(workspace, script, monkeypatch):
    """Run a block of commands in a folder that has the tools and no data."""
    (workspace / 'data').unlink()
    (workspace / 'tools').symlink_to(ROOT / 'tools')
    monkeypatch.setenv('PATH', str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))

    def run(*blocks):
        return script('bash', '-ec', ''.join(blocks)).stdout

    return run


def test_detection(follow, workspace):
    output = follow(DRAW, DETECTION)
    assert 'No problem found' in output
    assert 'python tools/train.py my_akd_teacher.py --cfg-options load_from=https://' in output
    # The files that the page lists.
    listed = set(re.findall(r'^\| `(.*?)` \|', PAGE, re.MULTILINE))
    assert listed == {path.name for path in workspace.glob('*.py')}
    follow(TRY)
    saved = torch.load(workspace / 'work_dirs/try/epoch_1.pth', weights_only=False)
    assert saved['meta']['iter'] == 2


@pytest.mark.slow
def test_segmentation(follow, workspace):
    assert 'No problem found' in follow(DRAW, SEGMENTATION)
    saved = torch.load(workspace / 'work_dirs/try_seg/iter_2.pth', weights_only=False)
    assert saved['meta']['iter'] == 2

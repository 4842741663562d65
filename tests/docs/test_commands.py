"""The commands of the pages run as they stand there, page by page, as one session each."""
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from socket import socket
from unittest import mock

import pytest
import torch

from tests.python_server import quick_python

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
COMMANDS = {page: ''.join(re.findall(r'^```shell\n(.*?)^```', page.read_text(), re.S | re.M))
            for page in PAGES}
# Programs that set up a machine, reach the network or show a page, and what is done in their
# place. An unknown program is not found, and the page fails.
STUBS = dict(
    # Its targets are there, and their recipes are expanded. The demo runs.
    make='if [ "$1" = demo ]; then exec python tools/demo.py; fi\n'
         f'{shutil.which("make")} -C {ROOT} --dry-run "$@"',
    # Installs nothing: what it would install is looked at behind the session.
    pip='echo "$@" >> pip.txt',
    # The page that it shows is there.
    chromium='for part; do case $part in file://*) test -s "${part#file://}";; esac; done',
    # A cluster of one process.
    srun='while [[ $1 == -* ]]; do shift; done; exec "$@"')
# Likewise a script that makes an environment: it is parsed. The trace shows where the time goes.
BEGINNING = f"""
tools/test_openmmlab_stack.sh() {{ bash -n {ROOT}/tools/test_openmmlab_stack.sh; }}
PS4='+ $SECONDS s: '
"""
HARMLESS = 'bash', 'dirname', 'git', 'touch'


@pytest.fixture(scope='session')
def programs(tmp_path_factory):
    """The folder of all programs that a page may call."""
    folder = tmp_path_factory.mktemp('programs') / 'bin'
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(f'#!{shutil.which("bash")}\nset -eu\n{text}\n')
        (folder / name).chmod(0o755)
    for name in HARMLESS:
        (folder / name).symlink_to(shutil.which(name))
    with quick_python(Path(__file__).with_name('short.py')) as python:
        (folder / 'python').symlink_to(python)
        yield folder


@pytest.fixture(scope='session')
def run(programs, tmp_path_factory):
    """Run a session of commands: ``output = run(text, folder)``."""
    cache = tmp_path_factory.mktemp('cache')

    def run_commands(text, folder):
        with socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        for name in 'configs', 'tools':
            (folder / name).symlink_to(ROOT / name)
        done = subprocess.run(
            [programs / 'bash', '-euxc', BEGINNING + text], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(PATH=str(programs), HOME=str(folder), VIRTUAL_ENV=str(programs.parent),
                     PORT=port, OMP_NUM_THREADS='1', TORCH_HOME=str(cache)))
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    return run_commands


@pytest.fixture(scope='session')
def demo(run, tmp_path_factory):
    """The files of the demo, for pages that begin with them."""
    folder = tmp_path_factory.mktemp('demo')
    run('make demo', folder)
    for name in 'configs', 'tools':
        (folder / name).unlink()
    return folder


@pytest.fixture
def checkout(tmp_path):
    """An empty checkout: without data, without trainings."""
    shutil.copytree(ROOT / 'docs', tmp_path / 'docs')
    return tmp_path


@pytest.mark.parametrize('page', [page for page in PAGES if COMMANDS[page]],
                         ids=lambda page: page.stem)
def test_commands(page, checkout, run, request):
    if 'make demo' in page.read_text():
        shutil.copytree(request.getfixturevalue('demo'), checkout, dirs_exist_ok=True)
    ten_lines = re.search(r"^```python\n(_base_ = 'my_student.py'.*?)^```", page.read_text(),
                          re.S | re.M)
    if ten_lines:
        (checkout / 'my_student.py').write_text(
            "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'\n")
        (checkout / 'my_akd_student.py').write_text(ten_lines[1])
    output = run(COMMANDS[page], checkout)
    print(output)
    if page.stem in CHECKS:
        CHECKS[page.stem](page, checkout, output)
    if (checkout / 'pip.txt').exists():
        check_pip((checkout / 'pip.txt').read_text())


def check_own_data(page, folder, output):
    """The files that the page lists, one epoch or two iterations on all classes."""
    assert output.count('No problem found') == 2
    assert 'python tools/train.py my_akd_teacher.py --cfg-options load_from=https://' in output
    listed = set(re.findall(r'^\| `(.*?)` \|', page.read_text(), re.MULTILINE))
    assert listed == {path.name for path in folder.glob('my_akd*.py')}
    for name in 'try/epoch_1.pth', 'try_seg/iter_2.pth':
        saved = torch.load(folder / 'work_dirs' / name, weights_only=False)
        assert saved['meta']['iter'] == 2


CHECKS = dict(own_data=check_own_data)


def check_pip(arguments):
    """The extras of the project and the files of versions are there."""
    with mock.patch('setuptools.setup') as setup:
        runpy.run_path(str(ROOT / 'setup.py'))
    extras = setup.call_args.kwargs['extras_require']
    assert set(extras) >= {name for names in re.findall(r'(?:\.|mmakd)\[(.*?)\]', arguments)
                           for name in names.split(',')}
    for path in re.findall(r'\S+\.txt', arguments):
        assert (ROOT / path).is_file()

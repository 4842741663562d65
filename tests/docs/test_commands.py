"""The commands and the code of the pages run as they stand there, page by page, as sessions."""
import re
import runpy
import shutil
import subprocess
from functools import cache
from pathlib import Path
from socket import socket
from unittest import mock

import pytest
import torch

from .blocks import CODE, COMMANDS, PAGES, README, ROOT, find_blocks

# Programs that set up a machine, reach the network or show a page, and what is done in their
# place. An unknown program is not found, and the page fails.
STUBS = dict(
    # Its targets are there, and their recipes are expanded. The demo runs.
    make='if [ "$1" = demo ]; then exec python tools/demo.py; fi\n'
         f'{shutil.which("make")} -C {ROOT} --dry-run "$@"',
    # Installs nothing: what it would install is looked at behind the session.
    pip='echo "$@" >> pip.txt',
    # Downloads, archives and label maps of real data sets.
    curl='', unzip='', csDownload='', csCreateTrainIdLabelImgs='',
    # The page that it shows is there.
    chromium='for part; do case $part in file://*) test -s "${part#file://}";; esac; done')
# Likewise a script that makes an environment: it is parsed. The trace shows where the time goes.
BEGINNING = f"""
tools/test_openmmlab_stack.sh() {{ bash -n {ROOT}/tools/test_openmmlab_stack.sh; }}
PS4='+ $SECONDS s: '
"""
HARMLESS = 'bash', 'dirname', 'git', 'mkdir', 'touch'
# The student of one's own that the main page supposes.
MY_STUDENT = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'\n"


@pytest.fixture(scope='session')
def programs(tmp_path_factory, quick_python):
    """The folder of all programs that a page may call."""
    folder = tmp_path_factory.mktemp('programs') / 'bin'
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(f'#!{shutil.which("bash")}\nset -eu\n{text}\n')
        (folder / name).chmod(0o755)
    for name in HARMLESS:
        (folder / name).symlink_to(shutil.which(name))
    (folder / 'python').symlink_to(quick_python)
    return folder


@pytest.fixture(scope='session')
def follow(programs, tmp_path_factory):
    """Follow a page, once: ``folder, output = follow(page)``."""

    @cache
    def run(page: Path) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(page.stem) / 'checkout'
        begins_with = find_beginning(page)
        if begins_with:
            shutil.copytree(run(begins_with)[0], folder, symlinks=True)
        else:
            shutil.copytree(ROOT / 'docs', folder / 'docs')
            for name in 'configs', 'tools':
                (folder / name).symlink_to(ROOT / name)
        with socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        env = dict(PATH=str(programs), HOME=str(folder), VIRTUAL_ENV=str(programs.parent),
                   PORT=port, OMP_NUM_THREADS='1', TORCH_HOME=str(programs.parent / 'cache'),
                   PRELUDE=str(Path(__file__).with_name('short.py')))
        done = subprocess.run(
            [programs / 'bash', '-euxc', BEGINNING + make_session(page, folder)], cwd=folder,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        assert done.returncode == 0, done.stdout[-5000:]
        return folder, done.stdout

    return run


def find_beginning(page: Path) -> Path | None:
    """Find the page whose files this one says that it uses."""
    quick_start = ROOT / 'docs/quick_start.md'
    text = page.read_text()
    if page in (README, quick_start):
        return None
    return quick_start if '(quick_start.md)' in text else README if '`make demo`' in text else None


def make_session(page: Path, folder: Path) -> str:
    """Join the commands; write configs and code to files."""
    session = []
    for number, block in enumerate(find_blocks(page)):
        if block.kind == COMMANDS:
            session.append(block.text)
        elif block.kind == CODE:
            (folder / f'code{number}.py').write_text(block.text)
            session.append(f'python code{number}.py\n')
        elif block.file:
            (folder / block.file).write_text(block.text)
            (folder / 'my_student.py').write_text(MY_STUDENT)
    return ''.join(session)


@pytest.mark.parametrize('page', [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem == 'own_data'))
    for page in PAGES if any(block.kind == COMMANDS for block in find_blocks(page))])
def test_page(page, follow):
    folder, output = follow(page)
    if page.stem in CHECKS:
        CHECKS[page.stem](page, folder, output)
    if (folder / 'pip.txt').exists():
        check_pip((folder / 'pip.txt').read_text())


def check_own_data(page: Path, folder: Path, output: str) -> None:
    """The files that the page lists, one epoch or two iterations on all classes."""
    assert output.count('No problem found') == 3  # in two configs, and in the images
    assert 'python tools/train.py my_akd_teacher.py --cfg-options load_from=https://' in output
    listed = set(re.findall(r'^\| `(.*?)` \|', page.read_text(), re.MULTILINE))
    assert listed == {path.name for path in folder.glob('my_akd*.py')}
    for name in 'try/epoch_1.pth', 'try_seg/iter_2.pth':
        saved = torch.load(folder / 'work_dirs' / name, weights_only=False)
        assert saved['meta']['iter'] == 2


CHECKS = dict(own_data=check_own_data)


def check_pip(arguments: str) -> None:
    """The extras of the project and the files of versions are there."""
    with mock.patch('setuptools.setup') as setup:
        runpy.run_path(str(ROOT / 'setup.py'))
    extras = setup.call_args.kwargs['extras_require']
    assert set(extras) >= {name for names in re.findall(r'(?:\.|mmakd)\[(.*?)\]', arguments)
                           for name in names.split(',')}
    for path in re.findall(r'\S+\.txt', arguments):
        assert (ROOT / path).is_file()


def test_commands_in_the_text(programs):
    """Outside blocks, with placeholders: the tools are there and have these options."""
    commands = set()
    for page in PAGES:
        text = re.sub(r'^```\w+\n.*?^```$', '', page.read_text(), flags=re.S | re.M)
        text = text.replace('\\\n', ' ')
        commands |= {' '.join(command.split()) for command in re.findall(
            r'(?:`|^ {4}|^(?=python))(?:\w+=\S+ )*(?:python )?((?:tools/|mmakd )[^`\n]+)',
            text, re.M)}
    assert len(commands) > 20
    asked = {command: usage_of(command) for command in commands}
    help_of = {usage: subprocess.run([programs / 'python', *usage, '--help'], cwd=ROOT, text=True,
                                     stdout=subprocess.PIPE).stdout
               for usage in set(asked.values()) if usage}
    for command, usage in asked.items():
        for option in re.findall(r'(?<= )--[a-z-]+', command) if usage else []:
            assert re.search(rf'{option}\b', help_of[usage]), command


def usage_of(command: str) -> tuple[str, ...]:
    """Find what to ask for the options of a command; nothing where it has none."""
    name, *arguments = command.split()
    if name == 'mmakd':
        return '-m', name, arguments[0]
    assert (ROOT / name).exists(), command
    name = re.sub(r'(dist|slurm)_(\w+)\.sh', r'\2.py', name)
    if not name.endswith('.py') or ' --' not in command:
        return ()
    return (name, arguments[0]) if name == 'tools/study.py' else (name, )

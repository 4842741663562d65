"""Scripts run in processes of their own without the seconds that their imports take.

A server process, one for all tests, has imported what they need and forks the processes.
"""
import multiprocessing
import os
import runpy
import sys
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

IMPORTS = ['torch._dynamo', 'mmdet.apis', 'mmseg.apis', 'mmakd', 'mmakd.checks.preflight']


def start_server(folder: Path) -> None:
    """Import everything.

    Args:
        folder (Path): Where packages are looked for first.
    """
    multiprocessing.set_forkserver_preload(IMPORTS)
    with mock.patch.dict(os.environ, OMP_NUM_THREADS='1',
                         PYTHONPATH=os.pathsep.join([str(folder), *sys.path])):
        forkserver.ensure_running()


def run_script(path: Path, *arguments: object, processes: int = 1, port: str = '',
               gloo: bool = False, check: bool = True, output: Path,
               **env: object) -> CompletedProcess:
    """Run a Python script as the interpreter or, in several processes, torchrun would.

    Args:
        path (Path): The script.
        *arguments (object): Its arguments.
        processes (int): Their number. Defaults to 1.
        port (str): Where several processes find one another. Defaults to ''.
        gloo (bool): Whether their group is started for the script. Defaults to False.
        check (bool): Whether none of them may fail. Defaults to True.
        output (Path): A file, which takes what they write.
        **env (object): Environment variables.

    Returns:
        CompletedProcess: The worst exit status, and what they wrote.
    """
    started = []
    for rank in range(processes):
        place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, LOCAL_WORLD_SIZE=processes,
                     MASTER_ADDR='127.0.0.1', MASTER_PORT=port) if processes > 1 else {}
        process = multiprocessing.get_context('forkserver').Process(target=_run, args=(
            str(path), [str(part) for part in arguments], gloo, str(output),
            {name: str(value) for name, value in {**env, **place}.items()}))
        process.start()
        started.append(process)
    running = {process.sentinel: process for process in started}
    while running:
        for sentinel in wait(list(running)):
            process: Any = running.pop(sentinel)
            process.join()
            if process.exitcode:
                # As torchrun does.
                for other in running.values():
                    other.terminate()
    codes = [process.exitcode for process in started]
    done = CompletedProcess(path, max(map(abs, codes)), output.read_text())
    assert not check or done.returncode == 0, f'{codes} {done.stdout[-5000:]}'
    return done


def _run(path: str, arguments: list[str], gloo: bool, output: str, env: dict[str, str]) -> None:
    import torch._dynamo
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    torch.set_num_threads(1)
    if gloo:
        torch.distributed.init_process_group('gloo')
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(path))
    # As _unformatted_configs of conftest.py.
    with mock.patch('yapf.yapflib.yapf_api.FormatCode', lambda text, **style: (text, True)):
        runpy.run_path(path, run_name='__main__')

"""A Python that starts at once: a server has imported the packages, and forks for each script."""
import gc
import importlib
import multiprocessing
import os
import runpy
import signal
import socket
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

ROOT = Path(__file__).parents[1]
# Not mmakd, which scripts and configs have to import.
IMPORTS = 'torch._dynamo', 'mmdet.apis', 'mmseg.apis'
# Hands its streams and its surroundings to the server, signals to the script, and its status back.
# Killed, it takes the script with it.
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
surroundings = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [b'%9d' % len(surroundings)], [0, 1, 2])
server.sendall(surroundings)
answers = server.makefile()
script = int(answers.readline())
for number in signal.SIGINT, signal.SIGTERM:
    signal.signal(number, lambda number, frame: os.kill(script, number))
status = int(answers.readline() or 1)
sys.exit(status if status >= 0 else 128 - status)
"""


@contextmanager
def quick_python() -> Iterator[Path]:
    """Start a server.

    Yields:
        Path: The interpreter, which understands ``-u``, ``-m MODULE`` and a script. It runs the
            script that the environment variable ``PRELUDE`` names ahead of it.
    """
    with TemporaryDirectory() as folder:
        python, address = Path(folder, 'python'), str(Path(folder, 'socket'))
        python.write_text(CLIENT.format(python=sys.executable, address=address))
        python.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, __file__, address, python], stdout=subprocess.PIPE,
            env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)))
        with server:
            assert b'ready\n' in iter(server.stdout.readline, b''), 'the server has failed'
            yield python
            server.terminate()


class Handler(socketserver.BaseRequestHandler):
    """Runs one script, in a process of its own."""

    def handle(self) -> None:
        """Give the script's process, then its status."""
        import json
        length, streams, *_ = socket.recv_fds(self.request, 9, 3)
        surroundings = self.request.makefile('rb').read(int(length))
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        argv, folder, env = json.loads(surroundings)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        process = multiprocessing.get_context('fork').Process(target=run, args=(argv, ))
        process.start()
        self.request.sendall(b'%d\n' % process.pid)
        # A client that is gone was killed.
        if process.sentinel not in wait([process.sentinel, self.request]):
            process.kill()
            return
        process.join()
        self.request.sendall(b'%d\n' % process.exitcode)


def run(argv: list[str]) -> None:
    """Do as Python would with the command line."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout.reconfigure(line_buffering=True)
    sys.executable, sys.orig_argv = sys.argv[2], argv
    sys.path[:0] = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
    sys.argv = [part for part in argv[1:] if part != '-u']
    is_module = sys.argv[0] == '-m'
    if is_module:
        del sys.argv[0]
    name = sys.argv[0] if is_module else os.path.abspath(sys.argv[0])
    sys.path.insert(0, os.getcwd() if is_module else os.path.dirname(name))
    if 'PRELUDE' in os.environ:
        runpy.run_path(os.environ['PRELUDE'])
    if is_module:
        runpy.run_module(name, run_name='__main__', alter_sys=True)
    else:
        runpy.run_path(name, run_name='__main__')


def serve(address: str) -> None:
    """Import everything, say so, and wait for scripts."""
    for name in IMPORTS:
        importlib.import_module(name)
    sys.modules['torch'].set_num_threads(1)
    gc.collect()
    gc.freeze()
    sys.path.remove(str(Path(__file__).parent))

    tests = os.getppid()

    class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):

        def service_actions(self) -> None:
            super().service_actions()
            if os.getppid() != tests:  # they were killed
                sys.exit()

    # As _unformatted_configs of conftest.py.
    with mock.patch('yapf.yapflib.yapf_api.FormatCode', lambda text, **style: (text, True)), \
            Server(address, Handler) as server:
        print('ready', flush=True)
        server.serve_forever()


if __name__ == '__main__':
    serve(sys.argv[1])

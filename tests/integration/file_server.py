"""A server of checkpoints."""
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves a folder on this machine.

    Below ``/half`` it breaks off in the middle of each file.

    Attributes:
        asked (Counter): Number of requests by path.
        url (str): Its address.
    """

    def __init__(self, folder):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.folder = folder
        self.asked = Counter()
        self.url = f'http://127.0.0.1:{self.server_port}'


class _Handler(SimpleHTTPRequestHandler):

    def __init__(self, request, client_address, server):
        super().__init__(request, client_address, server, directory=str(server.folder))

    def translate_path(self, path):
        return super().translate_path(path.removeprefix('/half'))

    def copyfile(self, source, outputfile):
        self.server.asked[self.path.lstrip('/')] += 1
        data = source.read()
        outputfile.write(data[:len(data) // 2] if self.path.startswith('/half') else data)

    def log_message(self, *args):
        pass

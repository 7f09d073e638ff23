"""A hub of models on this machine: files behind redirects to a second server, as the true one has them.

It answers as huggingface.co does: `/{owner}/{name}/resolve/{revision}/{file}` describes a large file in the headers of
a redirect (`X-Linked-Size`, `X-Linked-ETag` with its sha256, `X-Repo-Commit`) and gives a small one itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
import hashlib
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import re
import threading
import time
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = 'c0ffee' * 6 + 'c0ff'
BLOCK = 1 << 20


class Content:
    """Bytes that need not be in memory: block i of 1 MiB repeats the number i."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        for index in range(start // BLOCK, -(-self.size // BLOCK)):
            block = (self.seed * 1_000_003 + index).to_bytes(8, 'little') * (BLOCK // 8)
            first = max(start - index * BLOCK, 0)
            yield block[first : min(self.size - index * BLOCK, BLOCK)]

    def read(self) -> bytes:
        return b''.join(self.blocks())

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


class Text(Content):
    """A short text."""

    def __init__(self, text: str) -> None:
        super().__init__(len(text.encode()))
        self.text = text.encode()

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        yield self.text[start:]


@dataclass
class HubFile:
    """A file and what goes wrong with it.

    Attributes:
        content: What the hub says that it is.
        is_large: Whether it lies on the second server.
        sent: What is sent instead.
        cuts: After how many bytes the connection breaks, for each answer in turn; whole ones follow.
        ignores_range: Whether every answer is the whole file.
        refuses_range: Whether a range is answered with 416.
        status: Answered instead, with this error code.
        pause_s: Time between two blocks.
        failures: How many answers are HTTP 503 first.
        hides: Headers that are not sent.
        later: What it becomes at the first break of a connection.
        has_length: Whether a small file is described with its length instead of 0.
    """

    content: Content
    is_large: bool = True
    sent: Content | None = None
    cuts: list[int] = field(default_factory=list)
    ignores_range: bool = False
    refuses_range: bool = False
    status: int | None = None
    error_code: str = ''
    pause_s: float = 0.0
    failures: int = 0
    hides: tuple[str, ...] = ()
    later: Content | None = None
    has_length: bool = True

    @property
    def etag(self) -> str:
        """The tag that the second server gives it: it looks like a sum of the content and is none."""
        return f'"{hashlib.sha256(self.content.sha256.encode()).hexdigest()}"'


@dataclass(frozen=True)
class Request:
    """A request that was made: `server` is hub, files or proxy."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """Serves `files`, by `owner/name/file`, of `main`, `COMMIT` and the newest `commit`; `token` opens gated ones."""

    def __init__(self) -> None:
        self.files: dict[str, HubFile] = {}
        self.renamed: dict[str, str] = {}
        self.token: str | None = None
        self.commit = COMMIT
        self.requests: list[Request] = []

    def asked(self, server: str, method: str = 'GET') -> list[Request]:
        return [request for request in self.requests if (request.server, request.method) == (server, method)]

    def ranges(self) -> list[str | None]:
        """The ranges asked of the second server, in order."""
        return [request.headers.get('Range') for request in self.asked('files')]


@contextmanager
def serving(handler: Callable[..., Any], hub: HubServer) -> Iterator[str]:
    server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (handler,), {'hub': hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """What the servers have in common."""

    protocol_version = 'HTTP/1.1'
    name = ''
    hub: HubServer

    def do_GET(self) -> None:
        self.hub.requests.append(Request(self.name, self.command, self.path, dict(self.headers)))
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - the name that the library calls

    def answer(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace('_', '-'), str(value))
        if 'Content_Length' not in headers:
            self.send_header('Content-Length', '0')
        self.end_headers()

    def send_file(self, file: HubFile, **headers: object) -> None:
        content = file.sent or file.content
        wanted = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        if self.headers.get('If-Range', headers.get('ETag')) != headers.get('ETag'):
            wanted = None
        if wanted and file.refuses_range:
            self.reply(416)
            return
        start = int(wanted[1]) if wanted and not file.ignores_range else 0
        if start >= content.size > 0:
            self.reply(416, Content_Range=f'bytes */{content.size}')
            return
        if start:
            headers['Content_Range'] = f'bytes {start}-{content.size - 1}/{content.size}'
        self.reply(206 if start else 200, Content_Length=content.size - start, **headers)
        if self.command == 'HEAD':
            return
        left = file.cuts.pop(0) if file.cuts else None
        for block in content.blocks(start):
            piece = block if left is None else block[:left]
            self.wfile.write(piece)
            self.wfile.flush()
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    file.content, file.later = file.later or file.content, None
                    self.close_connection = True
                    return
            time.sleep(file.pause_s)


class HubHandler(Handler):
    """The hub itself."""

    name = 'hub'
    files_url = ''

    def answer(self) -> None:
        found = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', urlsplit(self.path).path)
        if not found:
            self.reply(404)
            return
        repo, revision, name = map(unquote, found.groups())
        if repo in self.hub.renamed:
            self.reply(307, Location=f'/{self.hub.renamed[repo]}/resolve/{revision}/{name}')
        elif not any(key.startswith(f'{repo}/') for key in self.hub.files):
            # Whoever has no token learns no more.
            status = 404 if 'Authorization' in self.headers else 401
            self.reply(status, X_Error_Code='RepoNotFound')
        elif revision not in ('main', COMMIT, self.hub.commit):
            self.reply(404, X_Error_Code='RevisionNotFound')
        elif f'{repo}/{name}' not in self.hub.files:
            self.reply(404, X_Error_Code='EntryNotFound')
        else:
            self.describe(self.hub.files[f'{repo}/{name}'], f'{repo}/{name}')

    def describe(self, file: HubFile, key: str) -> None:
        token = self.headers.get('Authorization')
        if file.failures > 0:
            file.failures -= 1
            self.reply(503)
        elif file.status is not None:
            self.reply(file.status, X_Error_Code=file.error_code)
        elif self.hub.token is not None and token != f'Bearer {self.hub.token}':
            self.reply(401 if token is None else 403, X_Error_Code='GatedRepo')
        elif file.is_large:
            headers = {
                'X_Repo_Commit': self.hub.commit,
                'X_Linked_Size': file.content.size,
                'X_Linked_ETag': f'"{file.content.sha256}"',
            }
            told = {name: value for name, value in headers.items() if name not in file.hides}
            self.reply(302, Location=f'{self.files_url}/{key}?signature=secret', **told)
        else:
            etag = hashlib.sha1(file.content.read()).hexdigest()
            if self.command == 'HEAD' and not file.has_length:
                self.reply(200, X_Repo_Commit=self.hub.commit, ETag=f'"{etag}"')
                return
            self.send_file(file, X_Repo_Commit=self.hub.commit, ETag=f'"{etag}"')


class FilesHandler(Handler):
    """Where large files lie: its addresses are signed for GET alone, unless the hub told nothing of a file."""

    name = 'files'

    def answer(self) -> None:
        file = self.hub.files[urlsplit(self.path).path.removeprefix('/')]
        if self.command == 'HEAD' and not file.hides:
            self.reply(403)
        else:
            self.send_file(file, ETag=file.etag)


class ProxyHandler(Handler):
    """Forwards what is asked in the clear, and opens no tunnel."""

    name = 'proxy'

    def answer(self) -> None:
        address = urlsplit(self.path)
        connection = HTTPConnection(address.netloc, timeout=10)
        headers = {key: value for key, value in self.headers.items() if key != 'Proxy-Connection'}
        connection.request(self.command, f'{address.path}?{address.query}', headers=headers)
        response = connection.getresponse()
        self.send_response(response.status)
        for key, value in response.getheaders():
            if key not in ('Server', 'Date'):
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(response.read())
        connection.close()

    def do_CONNECT(self) -> None:
        self.hub.requests.append(Request(self.name, 'CONNECT', self.path, dict(self.headers)))
        self.reply(502)


@contextmanager
def hub_server() -> Iterator[tuple[HubServer, str]]:
    """Serve a hub with no files yet; gives it and its address."""
    hub = HubServer()
    with serving(FilesHandler, hub) as files_url:
        handler = type('Handler', (HubHandler,), {'files_url': files_url})
        with serving(handler, hub) as url:
            yield hub, url


@contextmanager
def proxy_server(hub: HubServer) -> Iterator[str]:
    """Serve a proxy whose requests are noted in `hub`; gives its address."""
    with serving(ProxyHandler, hub) as url:
        yield url

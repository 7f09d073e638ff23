"""Files on the Hugging Face Hub or a mirror of it: where they are, how large, and what their sum is.

huggingface_hub does not serve here: since 2.0 it throws away what it has of a file when it fails or is interrupted, and
it compares lengths only, not sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
import logging
import os
import re
import ssl
import time
from typing import Self
from urllib.parse import urljoin, urlsplit

import requests
from requests.exceptions import ProxyError, RequestException

from fisa_ros.core.errors import DownloadError
from fisa_ros.core.model_sources import ModelSource, SourceFile, file_url, hub_endpoint

_CONNECT_TIMEOUT_S = 10.0
_MAX_REDIRECTS = 5
_MAX_PAUSE_S = 30.0
_COMMIT = re.compile('[0-9a-f]{40}')
_SHA256 = re.compile('[0-9a-f]{64}')
_PASSING = (408, 429, 500, 502, 503, 504)
_LOG = logging.getLogger('fisa_ros.models')


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub describes it.

    Attributes:
        url: Where it is, at its commit if that is told; it redirects to where the content lies.
        name: What to call it in a text.
        size: Its length in bytes; None where it is not told.
        sha256: Its sum; None where it is not told, as for small files.
        revision: The commit; None where it is not told.
        version: What changes whenever the content does, as far as it is told.
        etag: Strong tag that the server of `url` gives the content itself; None where it is not told.
    """

    url: str
    name: str
    size: int | None
    sha256: str | None
    revision: str | None
    version: str
    etag: str | None


class Hub:
    """Asks the hub for files; requests that fail for a passing reason are repeated, with longer and longer pauses."""

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        *,
        tries: int = 5,
        pause_s: float = 1.0,
        timeout_s: float = 60.0,
    ) -> None:
        """Use one hub.

        Proxies are those of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`. Logins of `.netrc` count where there is no
        token.

        Args:
            endpoint: Address of the hub; it may have a login, `https://USER:PASSWORD@HOST`, which counts alone.
            token: Shown to the hub alone, for files that are not for everybody.
            tries: How often in a row a request may fail.
            pause_s: The pause after the first failure; each further one is twice as long.
            timeout_s: For how long a server may be silent.
        """
        self.endpoint = endpoint.rstrip('/')
        self.tries = tries
        # A mirror with logins of its own is not whom a token of the hub is for.
        self._token = None if '@' in urlsplit(endpoint).netloc else token
        self._pause_s = pause_s
        self._timeout_s = (min(timeout_s, _CONNECT_TIMEOUT_S), timeout_s)
        self._session = _SessionOfToken() if self._token else requests.Session()
        # As it is: a length that is told must be that of the file.
        self._session.headers.update({'Accept-Encoding': 'identity', 'User-Agent': 'fisa_ros'})

    @classmethod
    def from_environment(cls) -> Self:
        """Use the hub of `HF_ENDPOINT` with the token of `HF_TOKEN`."""
        return cls(hub_endpoint(), os.environ.get('HF_TOKEN') or None)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def describe(self, source: ModelSource, file: SourceFile) -> RemoteFile:
        """Ask for the size and the sum of a file.

        Raises:
            DownloadError: It is not there, may not be had, or the hub cannot be reached; the text says what to do.
        """
        name = f'{source.repo}/{file.name}'
        url = file_url(self.endpoint, source, file)
        for failures in range(1, self.tries + 1):
            try:
                headers = self._head(url, name)
            except PassingFailure as failure:
                self.pause(failure, failures)
            else:
                break
        # Any other tag may look like a sum and be none.
        linked = headers.get('X-Linked-ETag', '').strip('W/"').lower()
        etag = headers.get('ETag', '')
        size = headers.get('X-Linked-Size') or headers.get('Content-Length')
        revision = headers.get('X-Repo-Commit')
        if revision is not None and _COMMIT.fullmatch(revision):
            # A branch may move between two requests.
            url = file_url(self.endpoint, replace(source, revision=revision), file)
        return RemoteFile(
            url,
            name,
            # None of the files may be empty: servers that do not know a length say 0.
            int(size) if size and size.isdecimal() and int(size) > 0 else None,
            linked if _SHA256.fullmatch(linked) else None,
            revision,
            linked or f'{url} {etag} {revision} {size}',
            etag if etag.startswith('"') and not headers.get('Location') else None,
        )

    def open(self, remote: RemoteFile, start: int) -> requests.Response:
        """Ask for the content of a file from byte `start` on; the answer may yet be the whole file (status 200).

        Raises:
            PassingFailure: It may go better the next time.
            DownloadError: It will not.
        """
        headers = self._authorization(remote.url)
        if start:
            headers['Range'] = f'bytes={start}-'
            if remote.etag is not None:
                headers['If-Range'] = remote.etag
        response = self._request('GET', remote.url, headers, stream=True, allow_redirects=True)
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT) and not (
            start and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):
            response.close()
            raise self._refusal(response, remote.name)
        return response

    def pause(self, failure: 'PassingFailure', failures: int) -> None:
        """Wait before the next try.

        Args:
            failure: What went wrong.
            failures: How often in a row it did.

        Raises:
            DownloadError: It did too often.
        """
        if failures >= self.tries:
            raise DownloadError(f'{failure}; {failure.advice}') from failure
        pause_s = min(max(self._pause_s * 2 ** (failures - 1), failure.pause_s), _MAX_PAUSE_S)
        _LOG.warning('%s; try %d of %d in %.0f s', failure, failures + 1, self.tries, pause_s)
        time.sleep(pause_s)

    def _head(self, url: str, name: str) -> Mapping[str, str]:
        """Collect what the hub and those it redirects to tell, until the size is known.

        `Location` is where another server than the hub describes the file.
        """
        told: dict[str, str] = {}
        for _ in range(_MAX_REDIRECTS):
            response = self._request('HEAD', url, self._authorization(url), allow_redirects=False)
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                raise self._refusal(response, name)
            for key in ('X-Linked-ETag', 'X-Linked-Size', 'X-Repo-Commit'):
                if key in response.headers:
                    told.setdefault(key, response.headers[key])
            if not response.is_redirect:
                if urlsplit(url).netloc != urlsplit(self.endpoint).netloc:
                    told['Location'] = url
                return {key: response.headers.get(key, '') for key in ('ETag', 'Content-Length')} | told
            # Where it leads to may answer GET alone.
            if 'X-Linked-Size' in told:
                return told
            url = urljoin(url, response.headers['Location'])
        raise DownloadError(f'{name}: {self.endpoint} redirects more than {_MAX_REDIRECTS} times; check HF_ENDPOINT')

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], *, allow_redirects: bool, stream: bool = False
    ) -> requests.Response:
        try:
            response = self._session.request(
                method,
                url,
                headers=dict(headers),
                timeout=self._timeout_s,
                allow_redirects=allow_redirects,
                stream=stream,
            )
        except ProxyError as error:
            raise PassingFailure(
                f'the proxy cannot be used: {_reason(error)}', 'check HTTPS_PROXY, HTTP_PROXY and NO_PROXY'
            ) from error
        except (requests.ConnectionError, requests.Timeout) as error:
            if isinstance(_innermost(error), ssl.SSLCertVerificationError):
                raise DownloadError(
                    f'the certificate of {self.endpoint} is not trusted: {_reason(error)}; where a proxy has its own, '
                    'name it in REQUESTS_CA_BUNDLE'
                ) from error
            raise PassingFailure(f'{_host(error, url)} cannot be reached: {_reason(error)}', _NO_NETWORK) from error
        except (RequestException, ValueError) as error:
            raise DownloadError(f'{url} cannot be asked for: {error}; check HF_ENDPOINT and the proxy') from error
        if response.status_code in _PASSING:
            response.close()
            after = response.headers.get('Retry-After', '')
            raise PassingFailure(
                f'{self.endpoint} answers HTTP {response.status_code} {response.reason}',
                'the same command goes on where this one stopped',
                float(after) if after.isdecimal() else 0.0,
            )
        return response

    def _authorization(self, url: str) -> dict[str, str]:
        is_hub = urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]
        return {'Authorization': f'Bearer {self._token}'} if self._token and is_hub else {}

    def _refusal(self, response: requests.Response, name: str) -> DownloadError:
        status = response.status_code
        code = response.headers.get('X-Error-Code', '')
        answer = f'HTTP {status}{f" {code}" if code else ""}'
        repo = '/'.join(name.split('/')[:2])
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return DownloadError(
                f'the proxy wants a login ({answer}): write HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT'
            )
        if status == HTTPStatus.NOT_FOUND:
            return DownloadError(
                f'{name} is not on {self.endpoint} ({answer}): the repository, revision or file of the manifest may be '
                'gone; check its sources, or get the files elsewhere and use --from DIR'
            )
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            how = 'the token of HF_TOKEN does not let' if self._token else 'it does not let everybody'
            return DownloadError(
                f'{self.endpoint} refuses {name} ({answer}): {how} read it, or there is no such repository; accept the '
                f'terms at {self.endpoint}/{repo} and set HF_TOKEN to a token of that account'
            )
        return DownloadError(f'{self.endpoint} answers {answer} for {name}; check HF_ENDPOINT, or use --from DIR')


class _SessionOfToken(requests.Session):
    """Takes no logins of `.netrc`, which would replace the token; `trust_env` would turn off the proxies too."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Keep the token from other servers that an answer leads to."""
        before, after = response.request.url, prepared_request.url
        if before is None or after is None or self.should_strip_auth(before, after):
            prepared_request.headers.pop('Authorization', None)


class PassingFailure(Exception):  # noqa: N818 - not an error until it happens too often
    """A request that failed for a reason that may pass.

    Attributes:
        advice: What to do if it does not.
        pause_s: How long the server asks to wait.
    """

    def __init__(self, text: str, advice: str, pause_s: float = 0.0) -> None:
        super().__init__(text)
        self.advice = advice
        self.pause_s = pause_s


_NO_NETWORK = (
    'check the network and HTTPS_PROXY, name a mirror in HF_ENDPOINT, or copy the files here and use --from DIR; the '
    'same command goes on where this one stopped'
)


def _host(error: RequestException, url: str) -> str:
    """Return which server a request failed at: a redirect leads elsewhere."""
    asked = error.request.url if error.request is not None else url
    return urlsplit(asked if isinstance(asked, str) else url).netloc


def _reason(error: Exception) -> str:
    """Return the innermost reason, without addresses of objects."""
    inner = _innermost(error)
    return str(inner) if isinstance(inner, OSError) and inner.strerror else f'{type(inner).__name__}: {inner}'


def _innermost(error: Exception) -> Exception:
    while True:
        inner = error.__cause__ or error.__context__ or getattr(error, 'reason', None)
        inner = inner or next((argument for argument in error.args if isinstance(argument, Exception)), None)
        if not isinstance(inner, Exception) or inner is error:
            return error
        error = inner

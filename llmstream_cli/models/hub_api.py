"""What the Hub says: a repository's files, their contents, and its refusals in words.

huggingface_hub reads its environment when it is imported. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE
and the cache folder are read here at each call instead; a token stored by `hf auth login` is
looked for where HF_HOME pointed at first.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2
from huggingface_hub import (
    HfApi,
    ModelInfo,
    constants,
    errors,
    get_session,
    get_token,
    hf_raise_for_status,
)
from huggingface_hub.errors import HfHubHTTPError

from llmstream_cli.errors import (
    DownloadError,
    ModelError,
    ModelNotFoundError,
    UnreachableError,
    one_line,
)
from llmstream_cli.files import exists
from llmstream_cli.machine import is_loopback
from llmstream_cli.models.reference import HubModel, is_safe_path

_LISTING_SECONDS = 20.0
_CONNECT_SECONDS = 10.0
_STALL_SECONDS = 30.0  # without a byte
_IDENTITY = {"user-agent": "llmstream"}

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository."""

    path: str
    size: int  # in bytes
    etag: str  # SHA-256 of a file in Git LFS or Xet, else SHA-1 of its git blob; hexadecimal


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit."""

    repo: str  # user/repo
    commit: str
    files: dict[str, RepoFile]  # by their paths, in the Hub's order


class HubClient:
    """Asks one Hub: the endpoint and the token that the environment names when it is made.

    DownloadError: HF_ENDPOINT is no address, or would have a token sent in clear text.
    """

    def __init__(self) -> None:
        self._endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.host, is_safe = _check_endpoint(self._endpoint)
        # Else the library tells which agent and libraries it runs under, and asks the network
        # how to recognize the former.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        if not is_safe:
            _refuse_token(self.host)
        self._token = _token() if is_safe else None

    def reach(self, seconds: float) -> None:
        """Ask for an answer of any kind, without the token; UnreachableError if none comes."""
        with self.explained(None):
            get_session().head(self._endpoint, headers=_IDENTITY, timeout=seconds)

    def list_files(self, model: HubModel) -> Listing:
        """List the files of the model's repository at its revision."""
        with self.explained(model):
            try:
                info = HfApi(endpoint=self._endpoint, headers=_IDENTITY).model_info(
                    model.repo,
                    revision=model.revision,
                    timeout=_LISTING_SECONDS,
                    files_metadata=True,
                    token=self._token or False,
                )
                return _listing(model.repo, info)
            except HfHubHTTPError:  # one of them is a ValueError as well
                raise
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DownloadError(f"{self.host} does not answer as the Hub does") from error

    def file_url(self, listing: Listing, file: RepoFile) -> str:
        return f"{self._endpoint}/{listing.repo}/resolve/{listing.commit}/{quote(file.path)}"

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """Get what is at an address on the Hub; a redirect to another host goes without the token.

        What it raises is the library's; see `explained`.
        """
        authorization = {"authorization": f"Bearer {self._token}"} if self._token else {}
        with get_session().stream(
            "GET",
            url,
            headers={**_IDENTITY, **authorization, **headers},
            follow_redirects=True,
            timeout=httpx2.Timeout(_STALL_SECONDS, connect=_CONNECT_SECONDS),
        ) as response:
            hf_raise_for_status(response)
            yield response

    @contextmanager
    def explained(self, model: HubModel | None) -> Iterator[None]:
        """Raise what huggingface_hub and its HTTP client raise as errors of ours."""
        try:
            yield
        except HfHubHTTPError as error:
            assert model is not None
            raise self._explain(error, model) from error
        except errors.OfflineModeIsEnabled as error:
            raise UnreachableError(f"{model} is not here, and HF_HUB_OFFLINE is set") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UnreachableError(f"{self.host} cannot be reached: {one_line(error)}") from error

    def _explain(  # noqa: PLR0911 -- a table of refusals
        self, error: HfHubHTTPError, model: HubModel
    ) -> ModelError:
        repo, host, status = model.repo, self.host, error.response.status_code
        match error:
            case errors.GatedRepoError():  # before what it is a kind of
                way = "your token has no access yet" if self._token else "then set HF_TOKEN"
                return DownloadError(f"{repo} is gated: accept its terms at {host}/{repo}; {way}")
            case errors.RepositoryNotFoundError():
                way = "your token has no access" if self._token else "needs HF_TOKEN"
                return ModelNotFoundError(
                    f"there is no model {repo} on {host}, or it is private and {way}"
                )
            case errors.RevisionNotFoundError():
                return ModelNotFoundError(f"{repo} has no revision {model.revision}")
            case errors.EntryNotFoundError():
                return ModelNotFoundError(f"{repo} has no file {model.file}")
        if status in _MAY_PASS:
            return UnreachableError(f"{host} answers with status {status}; try again later")
        if status == _UNAUTHORIZED and self._token:
            return DownloadError(f"{host} refuses your token: renew or unset HF_TOKEN")
        if status in {_UNAUTHORIZED, _FORBIDDEN}:
            way = "your token has no access" if self._token else "set HF_TOKEN"
            return DownloadError(f"{host} does not let you read {repo}: {way}")
        return DownloadError(f"{host} answers to {model} with status {status}")


def may_pass(error: HfHubHTTPError) -> bool:
    """Whether the same request may succeed a little later."""
    return error.response.status_code in _MAY_PASS


def is_offline() -> bool:
    """Whether the user forbids to ask the Hub."""
    return _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE")


def _is_set(name: str) -> bool:
    """Whether a switch in the environment is on, as huggingface_hub reads it."""
    return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}


def _check_endpoint(endpoint: str) -> tuple[str, bool]:
    """Return the endpoint's host, and whether what is sent to it stays unread by others."""
    try:
        url = urlsplit(endpoint)
        host = url.hostname
    except ValueError as error:
        raise DownloadError(f"HF_ENDPOINT is no address: {error}") from error
    if url.scheme not in {"http", "https"} or not host:
        raise DownloadError(f"HF_ENDPOINT is no address: {endpoint}")
    return url.netloc.rpartition("@")[2], url.scheme == "https" or is_loopback(host)


def _token() -> str | None:
    """Return the token to send, if the user has one."""
    if _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return None
    try:
        token = get_token()
    except (OSError, errors.OIDCError) as error:
        if isinstance(error, OSError) and not exists(Path(constants.HF_TOKEN_PATH)):
            return None  # the home is no folder, or may not be entered
        raise DownloadError(f"the token for the Hub cannot be read: {one_line(error)}") from error
    if token is not None and not re.fullmatch(r"[!-~]+", token):  # no header could hold it
        raise DownloadError("the token for the Hub has characters that no token has; see HF_TOKEN")
    return token


def _refuse_token(host: str) -> None:
    """Refuse a host that would get a token in clear text, if there is one to be sent.

    `get_token` is not asked: it may renew a token over the network, by the same unsafe way.
    """
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")
    has_token = exists(Path(constants.HF_TOKEN_PATH)) or any(map(os.environ.get, names))
    if has_token and not _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        raise DownloadError(
            f"HF_ENDPOINT would have your token sent to {host} in clear text: use https, "
            "or set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to send none"
        )


def _listing(repo: str, info: ModelInfo) -> Listing:
    files = {}
    for sibling in info.siblings or ():
        size, etag = sibling.size, sibling.blob_id or ""
        if sibling.lfs is not None:
            size, etag = sibling.lfs.size, sibling.lfs.sha256
        # Names become paths here and etags names of files: a Hub may not choose just any.
        if size is not None and is_safe_path(sibling.rfilename) and _ETAG.fullmatch(etag):
            files[sibling.rfilename] = RepoFile(sibling.rfilename, size, etag)
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise ValueError(commit)
    return Listing(repo, commit, files)

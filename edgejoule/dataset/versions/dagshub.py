"""The configured host (DagsHub), its token, and the three REST calls that are made of it.

The token is read from the environment alone, is sent to the configured host alone, and is taken out
of every message.

Standard library only. The REST calls (user, creation of a repository) follow DagsHub's public
client; they have been tried against this project's stand-in, not against every answer of the host.
"""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.versions.token_pipe import token_from_pipe
from edgejoule.errors import MeasurementError, ServerError, TokenError, UsageError

if TYPE_CHECKING:
    from edgejoule.dataset.versions.remotes import Remote

DEFAULT_HOST = "https://dagshub.com"
DEFAULT_NAME = "edgejoule-raw-data"
TOKEN_VARIABLE = "DAGSHUB_USER_TOKEN"  # noqa: S105 (the name of it)
_TIMEOUT_S = 30
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Access:
    """What a token may do with a repository: see `check_access`."""

    user: str
    owner: str
    name: str
    exists: bool
    writable: bool

    @property
    def label(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"


def token_from_environment() -> str | None:
    """Return the token, from the environment or handed over by a pipe; None if there is none."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or token_from_pipe()


def need_token() -> str:
    """Return the token.

    Raises:
        TokenError: There is none.
    """
    token = token_from_environment()
    if token is None:
        raise TokenError(
            f"no token for {host()}", f"set {TOKEN_VARIABLE}; DagsHub asks for one to read, too"
        )
    return token


def redact(text: str, token: str | None) -> str:
    """Return text without the token, plain or encoded for basic authorisation."""
    if not token:
        return text
    for secret in (basic_authorization(token).partition(" ")[2], token):
        text = text.replace(secret, "***")
    return text


def basic_authorization(token: str) -> str:
    """Return the value of the header that git and DVC use: the token as user and password."""
    return "Basic " + base64.b64encode(f"{token}:{token}".encode()).decode()


def host() -> str:
    """Return the base address, from DAGSHUB_CLIENT_HOST or DagsHub's own.

    Raises:
        UsageError: It is no address, or would send the token unencrypted over a network.
    """
    base = (os.environ.get("DAGSHUB_CLIENT_HOST") or DEFAULT_HOST).rstrip("/")
    parts = urllib.parse.urlsplit(base)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"DAGSHUB_CLIENT_HOST is no address: {base}", f"say {DEFAULT_HOST}")
    if parts.username or parts.password:
        raise UsageError(
            "DAGSHUB_CLIENT_HOST holds a user or password", f"put the token in {TOKEN_VARIABLE}"
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UsageError(f"{base} would get the token unencrypted", "use https")
    return base


def repository_address(owner: str, name: str) -> str:
    """Return the address of `owner/name` on the configured host.

    Raises:
        UsageError: A name that no repository has.
    """
    for part, option in ((owner, "--owner"), (name, "--name")):
        if not _NAME.match(part):
            raise UsageError(
                f"{part!r} names no owner or repository on {host()}",
                f"say {host()}/OWNER/NAME, or {option} with that name alone",
            )
    return f"{host()}/{owner}/{name}"


def user_of(token: str) -> str:
    """Return the name of the token's user; this is also the probe whether the token is good.

    Raises:
        TokenError: The token was refused.
        ServerError: The host could not be reached, or answers nonsense.
    """
    status, answer = _call("GET", "/api/v1/user", {"Authorization": f"Bearer {token}"})
    if status in {401, 403}:
        raise _refused()
    name = answer.get("username") or answer.get("login")
    if status != 200 or not isinstance(name, str):
        raise ServerError(f"{host()} answers {status} to GET /api/v1/user", "try again later")
    return name


def check_access(owner: str | None = None, name: str | None = None) -> Access:
    """Say whether the token is accepted and the repository there and writable.

    Asks git's own protocol for the right to push, which needs no more of the REST API than the
    user's name. Without an owner it is the token's user, without a name `edgejoule-raw-data`.

    Raises:
        TokenError: No token, or it was refused.
        ServerError: The host could not be reached.
        UsageError: The host answers with another address.
    """
    token = need_token()
    user = user_of(token)
    owner, name = owner or user, name or DEFAULT_NAME
    label = repository_address(owner, name)
    path = f"/{owner}/{name}.git/info/refs?service=git-"
    header = {"Authorization": basic_authorization(token)}
    push_status, _ = _call("GET", f"{path}receive-pack", header)
    exists = writable = push_status == 200
    if not writable:
        read_status, _ = _call("GET", f"{path}upload-pack", header)
        exists = read_status == 200
        if read_status in {301, 302, 307, 308}:
            raise UsageError(f"{label} has moved", "give its new address; a browser shows it")
        if read_status >= 500:
            raise ServerError(f"{label} answers {read_status}", "try again later")
    return Access(user, owner, name, exists, writable)


def create_repository(name: str) -> None:
    """Create a repository of the token's user.

    Raises:
        TokenError, ServerError: As `user_of`.
        UsageError: The host refuses the name.
    """
    header = {"Authorization": f"Bearer {need_token()}"}
    form = {"name": name, "description": "Raw power and runtime data of neural networks"}
    status, answer = _call("POST", "/api/v1/user/repos", header, form)
    if status in {401, 403}:
        raise _refused()
    if status == 422:
        why = " ".join(str(answer.get("message", "exists already, or a bad name")).split())[:200]
        raise UsageError(f"{host()} does not create {name} ({why})", "choose another --name")
    if status not in {200, 201}:
        raise ServerError(f"{host()} answers {status} to the creation of {name}")


def ensure_repository(remote: Remote, *, create: bool) -> None:
    """Check that the repository is there and writable; create it if that was asked for.

    Raises:
        UsageError: It is not there and `create` is False, or it cannot be created for that owner.
        TokenError: The token may not write to it.
        ServerError: As `user_of`.
    """
    access = check_access(remote.owner, remote.name)
    if access.writable:
        return
    if access.exists:
        raise TokenError(f"the token may read {remote.label} but not write to it")
    if not create:
        raise UsageError(
            f"{remote.label} does not exist or the token cannot see it",
            "create it there, or add --create (CREATE_REPO=1)",
        )
    if access.user != remote.owner:
        raise UsageError(
            f"{remote.label} can only be created by {remote.owner}, the token is {access.user}'s"
        )
    create_repository(remote.name)
    if not check_access(remote.owner, remote.name).writable:
        raise MeasurementError(f"{remote.label} was created but does not take a push yet")


def _refused() -> TokenError:
    return TokenError(
        f"{host()} refused the token", f"check {TOKEN_VARIABLE}: it may be mistyped or revoked"
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: it would carry the token to wherever it points."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse."""


def _call(
    method: str, path: str, headers: dict[str, str], form: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON object of an answer, {} where it is none."""
    data = None if form is None else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(  # noqa: S310 (`host` allows http and https alone)
        host() + path, data=data, headers=headers, method=method
    )
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            status, body = answer.status, answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read(1 << 20)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(
            f"{host()} cannot be reached ({reason})", "check the network, then run it again"
        ) from None
    try:
        found = json.loads(body)
    except ValueError:
        found = {}
    return status, found if isinstance(found, dict) else {}

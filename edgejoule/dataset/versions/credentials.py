"""How git gets the token: through a pipe, so that no argument, variable or file ever holds it.

git asks a credential helper, here one line of shell that copies the next answer from a pipe which
git and its children inherit. What is not asked for is gone with the pipe. The helper is tied to the
address, so a proxy or another host that asks gets nothing.

On Windows, where descriptors are not inherited so, the token is in the environment of that one git
process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgejoule.dataset.versions.dagshub import TOKEN_VARIABLE, basic_authorization
from edgejoule.errors import TokenError

_PIPE_BYTES = 4096
_LONGEST = 1000
_ANSWERS = 32  # a fetch may connect more than once; each connection asks once
# `read` takes a byte at a time from a pipe, so one answer leaves the next where it is. The pipe is
# opened by its path, since some shells (dash) know descriptors of one digit only.
_HELPER = (
    '!f() {{ test "$1" = get || return 0; while IFS= read -r l && test -n "$l"; '
    "do printf '%s\\n' \"$l\"; done < /dev/fd/{fd}; }}; f"
)


@dataclass(frozen=True)
class GitAccess:
    """What one git process is started with so that it can answer for the token.

    Attributes:
        settings: Settings for its command line; no secret in them.
        environment: Variables; empty but on Windows.
        descriptors: Descriptors that it inherits.
    """

    settings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()


@contextlib.contextmanager
def git_access(url: str, token: str) -> Iterator[GitAccess]:
    """Give git the token for one address until the block ends.

    Raises:
        TokenError: The token cannot be one.
    """
    if not token.isprintable() or any(character.isspace() for character in token):
        raise TokenError("the token holds a space or a line break", f"check {TOKEN_VARIABLE}")
    if len(token) > _LONGEST:
        raise TokenError(f"the token has {len(token)} characters", f"check {TOKEN_VARIABLE}")
    parts = urllib.parse.urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    if sys.platform == "win32":
        yield GitAccess(environment=_by_environment(url, token))
        return
    read_fd, write_fd = os.pipe()
    try:
        answer = f"username={token}\npassword={token}\n\n".encode()
        # Never more than a pipe holds; its writing end stays open here, or opening it would block.
        os.write(write_fd, answer * min(_ANSWERS, _PIPE_BYTES // len(answer)))
        helper = _HELPER.format(fd=read_fd)
        # An empty value forgets the helpers that the user's own settings name.
        settings = (
            "credential.helper=",
            f"credential.{base}.helper=",
            f"credential.{base}.helper={helper}",
        )
        yield GitAccess(settings=settings, descriptors=(read_fd,))
    finally:
        os.close(read_fd)
        os.close(write_fd)


def _by_environment(url: str, token: str) -> dict[str, str]:
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{url}.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: {basic_authorization(token)}",
    }

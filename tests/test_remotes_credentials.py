"""The token's way to git, tried with git itself."""

import os
import subprocess
import sys

import pytest

from edgejoule.dataset.versions.credentials import git_access
from edgejoule.errors import TokenError

TOKEN = "tok'$(x)\\n\"-6b1f"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows inherits no pipe")


def ask(access, host, verb="fill", protocol="https"):
    """Ask git for credentials as its HTTP client does."""
    settings = [word for setting in access.settings for word in ("-c", setting)]
    assert TOKEN not in "".join(settings)
    assert access.environment == {}
    return subprocess.run(
        ["git", *settings, "credential", verb],
        input=f"protocol={protocol}\nhost={host}\n\n",
        pass_fds=access.descriptors, capture_output=True, text=True, check=False, timeout=30,
        env={"PATH": os.environ["PATH"], "GIT_TERMINAL_PROMPT": "0", "HOME": "/nonexistent"},
    )  # fmt: skip


def test_git_gets_the_token_as_often_as_it_asks():
    with git_access("https://dagshub.com/rosa/power.git", TOKEN) as access:
        for _ in range(3):
            answer = ask(access, "dagshub.com").stdout.splitlines()
            assert f"username={TOKEN}" in answer
            assert f"password={TOKEN}" in answer


def test_descriptors_of_two_digits_work():
    """dash, the shell of Debian, knows descriptors of one digit only."""
    held = [os.pipe() for _ in range(8)]
    try:
        with git_access("https://dagshub.com/rosa/power.git", TOKEN) as access:
            assert access.descriptors[0] > 9
            assert f"password={TOKEN}" in ask(access, "dagshub.com").stdout
    finally:
        for fd in (fd for pair in held for fd in pair):
            os.close(fd)


@pytest.mark.parametrize(
    ("host", "protocol"),
    [("evil.example", "https"), ("dagshub.com", "http"), ("dagshub.com:8443", "https")],
)
def test_nobody_else_gets_it(host, protocol):
    with git_access("https://dagshub.com/rosa/power.git", TOKEN) as access:
        done = ask(access, host, protocol=protocol)
    assert done.returncode != 0
    assert TOKEN not in done.stdout + done.stderr


def test_it_is_neither_stored_nor_left_open():
    with git_access("https://dagshub.com/rosa/power.git", TOKEN) as access:
        (fd,) = access.descriptors
        for verb in ("approve", "reject"):
            assert ask(access, "dagshub.com", verb).returncode == 0
        assert f"password={TOKEN}" in ask(access, "dagshub.com").stdout
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("token", ["a b", "a\nb", "a\x00b", "x" * 5000])
def test_what_cannot_be_a_token(token):
    with (
        pytest.raises(TokenError, match="the token h"),
        git_access("https://dagshub.com/rosa/power.git", token),
    ):
        pass

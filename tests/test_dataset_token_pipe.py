"""A token handed to a child of our own leaves no trace in its environment, and is read once."""

import subprocess
import sys
from pathlib import Path

from edgejoule.dataset.versions.token_pipe import PIPE_VARIABLE, token_pipe
from edgejoule.processes import child_environment

ASK = """
import os
from edgejoule.dataset.versions.dagshub import token_from_environment
print(token_from_environment(), token_from_environment())
print(open(f"/proc/{os.getpid()}/environ").read().count("hush"))
"""


def ask(variables, descriptors=()):
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=child_environment(variables), pass_fds=descriptors,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_a_child_reads_it_from_the_pipe_alone(monkeypatch):
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "hush-1")
    before = set(Path("/proc/self/fd").iterdir())
    with token_pipe("hush-1") as (variables, descriptors):
        assert "hush" not in str(variables)
        assert ask(variables, descriptors) == ["hush-1", "hush-1", "0"]
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_without_a_token_nothing_is_handed_over():
    with token_pipe(None) as (variables, descriptors):
        assert (variables, descriptors) == ({}, ())


def test_a_pipe_that_is_not_there_is_no_token():
    assert ask({PIPE_VARIABLE: "97"}) == ["None", "None", "0"]
    assert ask({PIPE_VARIABLE: "rubbish"}) == ["None", "None", "0"]

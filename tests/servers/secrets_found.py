"""Secrets in bytes: as they are, in base64 whatever stands around them, or in hexadecimal."""

from __future__ import annotations

import base64
import gzip
import os
import re
import stat
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LARGEST = 256 << 20  # bytes; larger files are counted as not looked at


def forms(secret: str) -> list[bytes]:
    """Return every form of a secret that is searched for.

    In base64 its letters depend on where in a group of three bytes it begins, and the first and the
    last of them on its neighbours: there is one form for each beginning, without those letters.
    """
    raw = secret.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        begin = (0, 2, 3)[shift]
        end = len(encoded) - (1 if (shift + len(raw)) % 3 else 0)
        found.append(encoded[begin:end])
    return found


class Finder:
    """Says which of some secrets, by their labels, stand in bytes. A secret is never printed."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.labels = {form: label for label, secret in secrets.items() for form in forms(secret)}
        self.pattern = re.compile(b"|".join(re.escape(form) for form in self.labels))

    def __call__(self, content: bytes) -> set[str]:
        """Return the labels of the secrets in `content`."""
        return {self.labels[found] for found in self.pattern.findall(content)}

    def hide(self, text: str) -> str:
        """Return text with the secrets replaced by their labels."""
        raw = text.encode(errors="surrogateescape")
        hidden = self.pattern.sub(lambda found: f"<{self.labels[found[0]]}>".encode(), raw)
        return hidden.decode(errors="replace")


@dataclass
class FileSearch:
    """A search through files, with what was found and counts of what was looked at.

    Attributes:
        finder: Knows the secrets.
        excluded: Folders that hold secrets by nature.
        since_ns: From when on a file counts as changed, as time.time_ns gives it.
    """

    finder: Finder
    excluded: frozenset[Path] = frozenset()
    since_ns: int = 0
    found: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def search(self, root: Path) -> None:
        """Look at every file below `root`: name, content, unpacked content, git's objects."""
        for folder, folders, names in os.walk(root):
            here = Path(folder)
            folders[:] = [name for name in folders if here / name not in self.excluded]
            for name in (*folders, *names):
                self._note(str(here / name), "in its name", os.fsencode(name))
            for name in names:
                self.look_at(here / name)
            if {"objects", "refs"} <= set(folders) and "HEAD" in names:
                self._look_at_repository(here)

    def search_changed(self, roots: Iterable[Path], *, prune: Iterable[Path] = ()) -> None:
        """Look at the files below `roots` that changed since `since_ns`; folders are many."""
        skipped = [word for path in prune for word in ("-path", str(path), "-prune", "-o")]
        done = subprocess.run(
            ["find", *map(str, roots), "-xdev", *skipped, "-newerct", f"@{self.since_ns / 1e9:.3f}",
             "-not", "-type", "d", "-print0"],
            capture_output=True, check=False, env={"PATH": os.environ.get("PATH", "")},
        )  # fmt: skip
        for name in done.stdout.split(b"\0")[:-1]:
            self._note(os.fsdecode(name), "in its name", name)
            self.look_at(os.fsdecode(name))

    def look_at(self, path: Path | str) -> None:
        """Look at one file; what is not a file (any more) is passed over."""
        try:
            facts = os.lstat(path)
            if stat.S_ISLNK(facts.st_mode):
                self._note(str(path), "in its target", os.fsencode(Path(path).readlink()))
            if not stat.S_ISREG(facts.st_mode):
                return
            if facts.st_size > _LARGEST:
                self.counts["files too large"] += 1
                return
            content = Path(path).read_bytes()
        except FileNotFoundError:
            return
        except OSError:
            self.counts["unreadable files"] += 1
            return
        self.counts["files"] += 1
        self.counts["bytes"] += len(content)
        self._note(str(path), "", content)
        for unpacked in _unpacked(content):
            self._note(str(path), "unpacked", unpacked)

    def _look_at_repository(self, folder: Path) -> None:
        """Look at every object of a git repository, loose or packed, referred to or not."""
        done = subprocess.run(
            ["git", "--git-dir", str(folder), "cat-file", "--batch-all-objects", "--batch"],
            capture_output=True, check=False,
            env={"PATH": os.environ.get("PATH", ""), "GIT_CONFIG_COUNT": "1",
                 "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"},
        )  # fmt: skip
        if done.returncode:
            self.found.append(f"{folder}: git cannot list its objects: {done.stderr[:200]!r}")
        self.counts["git repositories"] += 1
        self.counts["git objects"] += len(
            re.findall(rb"^[0-9a-f]{40,64} (?:blob|tree|commit|tag) \d+$", done.stdout, re.M)
        )
        self._note(str(folder), "in a git object", done.stdout)

    def _note(self, where: str, how: str, content: bytes) -> None:
        for label in sorted(self.finder(content)):
            said = f"{where}: {label}{' ' if how else ''}{how}"
            self.found.append(self.finder.hide(said))


def _unpacked(content: bytes) -> Iterator[bytes]:
    try:
        if content[:2] == b"\x1f\x8b":
            yield gzip.decompress(content)
        elif content[:1] == b"\x78":
            yield zlib.decompress(content)
    except (OSError, EOFError, zlib.error):
        return

"""Watches a lane for its secrets: in files, outputs, logs, arguments and environments.

What it looks at, and how completely:

- Files: every file below the lane's folders when it ends, with git's objects unpacked; elsewhere
  (temporary folders, the home folder, the checkout) every file that changed meanwhile. A file that
  this process removes or replaces is read just before.
- Processes that this process starts: each, with its arguments and environment, when it is started.
- All other processes of the machine: sampled about a thousand times a second (`sampler.py`). git
  records its own processes besides, with their arguments: their number says how many were missed.
- What commands print, what is logged, and the words of every error of the project.

One process may have a secret in its environment: the command that a test gave it to (`given`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError
from tests.servers.secrets_found import FileSearch, Finder

_ROOT = Path(__file__).resolve().parents[2]
_STARTS = {"subprocess.Popen", "os.posix_spawn", "os.exec"}
_REMOVALS = {"os.remove", "os.rename"}
_TRACE = "git-trace.jsonl"


class Watch(logging.Handler):
    """A watch over one lane, from `start` to `stop`.

    Attributes:
        root: The lane's folder: everything in it is looked at.
        excluded: Folders in it that hold secrets by nature.
        found: Where secrets were found; the secrets themselves are not in it.
        counts: What was looked at.
    """

    def __init__(self, secrets: Mapping[str, str], root: Path) -> None:
        super().__init__()
        self.secrets = dict(secrets)
        self.finder = Finder(secrets)
        self.root = root
        self.excluded: set[Path] = set()
        self.found: list[str] = []
        self.counts: Counter[str] = Counter()
        self.sampled: dict[str, Any] = {}
        self._given: dict[int, str] = {}
        self._giving = threading.local()
        self._unwrap = contextlib.ExitStack()
        self._began_ns = time.time_ns()
        self._active = False
        self._sampler: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin to watch."""
        clean = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(_ROOT)}
        self._sampler = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.sampler"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean,
        )  # fmt: skip
        assert self._sampler.stdin is not None
        assert self._sampler.stdout is not None
        self._sampler.stdin.write(json.dumps(self.secrets) + "\n")
        self._sampler.stdin.flush()
        assert self._sampler.stdout.readline() == "ready\n"
        self._active = True
        sys.addaudithook(self._audit)  # stays for good, and does nothing after `stop`
        logging.getLogger().addHandler(self)
        self._wrap()

    def stop(self, elsewhere: Sequence[Path] = ()) -> None:
        """End the watch, and look at all files; `elsewhere` only at those that changed."""
        self._active = False
        logging.getLogger().removeHandler(self)
        self._unwrap.close()
        self._end_sampler()
        begin = time.monotonic()
        search = FileSearch(self.finder, frozenset(self.excluded))
        search.search(self.root)
        changed = FileSearch(self.finder, frozenset(self.excluded), self._began_ns)
        if roots := [path for path in elsewhere if path.exists()]:
            changed.search_changed(roots, prune=[self.root, _ROOT / ".venv"])
        self.found += [*search.found, *changed.found]
        self.counts.update(search.counts)
        self.counts.update({f"{key} elsewhere": n for key, n in changed.counts.items()})
        self.counts["seconds of searching files"] = round(time.monotonic() - begin)
        self._count_git()

    @contextlib.contextmanager
    def given(self) -> Iterator[None]:
        """What this thread starts in the block was given the secret by the test."""
        self._giving.now = True
        try:
            yield
        finally:
            self._giving.now = False

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command that was given the secret; its children were not."""
        with self.given():
            process = subprocess.Popen(command, **options)
        self._given[process.pid] = self.finder.hide(" ".join(command))
        return process

    def look_at_output(self, where: str, *texts: str | bytes | None) -> None:
        """Look at what a command printed."""
        for text in texts:
            raw = text.encode(errors="surrogateescape") if isinstance(text, str) else text
            self.counts["outputs of commands"] += raw is not None
            self._note(where, raw or b"")

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a line of a log."""
        self.counts["lines logged"] += 1
        with contextlib.suppress(Exception):
            self._note(f"log of {record.name}", record.getMessage().encode())

    def trace_git(self, home: Path) -> None:
        """Let git, with this home folder, record its processes."""
        home.mkdir(parents=True, exist_ok=True)
        trace = self.root / _TRACE
        (home / ".gitconfig").write_text(f"[trace2]\n    eventTarget = {trace}\n", encoding="utf-8")

    def report(self) -> list[str]:
        """Return lines for people: what was looked at, and what was found."""
        sampled = self.sampled
        lines = [f"{number} {what}" for what, number in sorted(self.counts.items())]
        if sampled:
            lines.append(
                f"{sampled['processes']} processes sampled, {sampled['samples']} samples in "
                f"{sampled['seconds']:.0f} s ({sampled['cpu_seconds']:.0f} s of CPU), "
                f"{sampled['environments']} environments read, {sampled['unreadable']} unreadable"
            )
        lines += sorted(set(self.found)) or ["no secret found"]
        return lines

    def _wrap(self) -> None:
        """Look at what child processes print to this one, and at the words of errors."""
        communicate, begin = subprocess.Popen.communicate, EdgejouleError.__init__

        def heard(process: Any, *arguments: Any, **options: Any) -> Any:
            said = communicate(process, *arguments, **options)
            words = process.args if isinstance(process.args, str) else process.args[0]
            self.look_at_output(f"output of {os.fsdecode(words)}", *said)
            return said

        def told(error: EdgejouleError, message: str, mend: str = "", *rest: Any) -> None:
            self.counts["errors of the project"] += 1
            self._note("the words of an error", f"{message}; {mend}".encode())
            begin(error, message, mend, *rest)

        for owner, name, new in (
            (subprocess.Popen, "communicate", heard),
            (EdgejouleError, "__init__", told),
        ):
            self._unwrap.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)

    def _note(self, where: str, content: bytes) -> None:
        for label in sorted(self.finder(content)):
            self.found.append(f"{where}: {label}")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in _STARTS:
            self._look_at_start(*arguments)
        elif event in _REMOVALS:
            self._look_at_removal(event, arguments)

    def _look_at_start(self, program: object, words: Any, *rest: Any) -> None:
        environment = rest[-1] if rest[-1] is not None else os.environ
        self.counts["processes started"] += 1
        raw = [os.fsencode(word) for word in words] if not isinstance(words, str) else [b"sh"]
        shown = self.finder.hide(b" ".join(raw).decode(errors="replace"))[:200]
        self._note(f"arguments of {shown}", b"\0".join(raw))
        if not getattr(self._giving, "now", False):
            pairs = [os.fsencode(k) + b"=" + os.fsencode(v) for k, v in environment.items()]
            self._note(f"environment of {shown}", b"\0".join(pairs))

    def _look_at_removal(self, event: str, arguments: tuple[Any, ...]) -> None:
        paths = arguments[:2] if event == "os.rename" else arguments[:1]
        for path, folder in zip(paths, arguments[len(paths) :], strict=False):
            with contextlib.suppress(TypeError, ValueError, OSError):
                name = os.fsdecode(path)
                if folder not in {-1, None}:
                    name = f"/proc/self/fd/{folder}/{name}"
                search = FileSearch(self.finder)
                if not any(Path(name).is_relative_to(one) for one in self.excluded):
                    search.look_at(name)
                self.found += [f"{line} (then removed)" for line in search.found]
                self.counts["files looked at before their end"] += search.counts["files"]

    def _end_sampler(self) -> None:
        if self._sampler is None:
            return
        self._sampler, sampler = None, self._sampler
        said, _ = sampler.communicate(timeout=60)
        self.sampled = json.loads(said)
        for one in self.sampled["found"]:
            # Between its making and its becoming another program a child is its parent's image.
            same = one["command"] in self._given.values()
            if one["kind"] == "environment" and (one["pid"] in self._given or same):
                continue
            self.found.append(f"{one['kind']} of {one['command'][:200]}: {one['label']} (sampled)")

    def _count_git(self) -> None:
        """Count git's own processes, and how many of them were sampled."""
        trace = self.root / _TRACE
        if not trace.exists():
            return
        lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
        started = {line for line in lines if '"event":"start"' in line}
        pids = {int(line.partition('"sid":"')[2].partition('"')[0][-8:], 16) for line in started}
        self.counts["processes that git recorded"] = len(started)
        self.counts["of them sampled"] = len(pids & set(self.sampled.get("git", ())))

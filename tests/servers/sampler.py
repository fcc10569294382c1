"""A process that looks at all processes: their arguments and environments, as often as it can.

Run as `python -m tests.servers.sampler`. The secrets come as JSON over stdin, lest it find itself;
it runs until stdin ends, then says on stdout as JSON what it saw.

The kernel says the number of the last process it made (/proc/loadavg): so a new process is looked
at within about a millisecond, and again for a while, because a process becomes another program
after it was made. Once in a while every process is looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time

from tests.servers.secrets_found import Finder

_YOUNG_S = 0.25  # that long a new process is looked at each time
_ROUND_S = 0.2  # that often every process is looked at
_PAUSE_S = 0.001


class Sampler:
    """What was seen of the processes."""

    def __init__(self, finder: Finder) -> None:
        self.finder = finder
        self.own = os.getpid()
        self.seen: dict[int, set[int]] = {}  # process -> hashes of what it was
        self.found: dict[tuple[int, str, str, str], dict[str, object]] = {}
        self.samples = self.environments = self.unreadable = 0
        self.git: set[int] = set()

    def look_at(self, pid: int) -> bool:
        """Look at one process; False if it is gone, a thread, or this process."""
        if pid == self.own or (pid not in self.seen and _is_thread(pid)):
            return False
        arguments = _read(f"/proc/{pid}/cmdline")
        if arguments is None:
            return False
        environment = _read(f"/proc/{pid}/environ")
        self.samples += 1
        if environment is None:
            self.unreadable += bool(arguments)  # the kernel's own threads have none
            environment = b""
        self.environments += bool(environment)
        known = self.seen.setdefault(pid, set())
        image = hash((arguments, environment))
        if image in known:
            return True
        if _is_thread(pid):  # numbers are used again: what was a process may be a thread now
            return False
        known.add(image)
        if arguments.split(b"\0")[0].rpartition(b"/")[2].startswith(b"git"):
            self.git.add(pid)
        for kind, content in (("arguments", arguments), ("environment", environment)):
            for label in self.finder(content):
                words = self.finder.hide(arguments.replace(b"\0", b" ").decode(errors="replace"))
                self.found[pid, kind, label, words] = {
                    "pid": pid, "parent": _parent(pid), "kind": kind, "label": label,
                    "command": words.strip(),
                }  # fmt: skip
        return True

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        last = _last_pid()
        young: dict[int, float] = {}
        round_at = 0.0
        while not stop.wait(_PAUSE_S):
            now = time.monotonic()
            newest = _last_pid()
            # Numbers wrap around: then the next round of all processes sees the new ones.
            young.update((pid, now + _YOUNG_S) for pid in range(last + 1, newest + 1))
            last = newest
            young = {pid: end for pid, end in young.items() if end > now and self.look_at(pid)}
            if now > round_at:
                round_at = now + _ROUND_S
                for name in os.listdir("/proc"):  # noqa: PTH208 (the quickest way)
                    if name.isdigit():
                        self.look_at(int(name))


def _last_pid() -> int:
    return int((_read("/proc/loadavg") or b"0").split()[-1])


def _read(path: str) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(handle, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    except OSError:  # it ended in between
        return None
    finally:
        os.close(handle)


def _is_thread(pid: int) -> bool:
    """Threads are numbered as processes are, and have all files of one."""
    status = _read(f"/proc/{pid}/status") or b""
    return f"\nTgid:\t{pid}\n".encode() not in status


def _parent(pid: int) -> int:
    status = _read(f"/proc/{pid}/stat")
    return int(status.rpartition(b")")[2].split()[1]) if status else 0


def main() -> None:
    """Look until stdin ends."""
    with contextlib.suppress(OSError):  # what it looks for may be short: it goes first if it may
        os.nice(-20)
    sampler = Sampler(Finder(json.loads(sys.stdin.readline())))
    stop = threading.Event()
    begin = time.monotonic()
    worker = threading.Thread(target=sampler.run, args=(stop,))
    worker.start()
    print("ready", flush=True)
    sys.stdin.read()
    stop.set()
    worker.join()
    report = {
        "found": list(sampler.found.values()),
        "processes": len(sampler.seen),
        "images": sum(len(images) for images in sampler.seen.values()),
        "git": sorted(sampler.git),
        "samples": sampler.samples,
        "environments": sampler.environments,
        "unreadable": sampler.unreadable,
        "seconds": time.monotonic() - begin,
        "cpu_seconds": time.process_time(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""What the sampler asks of the scheduler, and what it says where that is refused."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgejoule.power import scheduling
from edgejoule.power.scheduling import (
    Place,
    keep_off,
    pin_to_last_cpu,
    raise_priority,
    sharpen_timer,
    take_place,
)
from tests.support_sampling import os_error


class Machine:
    """CPUs and priority of a made-up machine; nothing of this process is changed."""

    def __init__(self, patch: pytest.MonkeyPatch, cpus: set[int], *, allowed: bool = True) -> None:
        self.cpus, self.allowed = cpus, allowed
        self.nice = 0
        self.asked: list[set[int]] = []
        self.slack: list[tuple[int, ...]] = []
        patch.setattr(os, "sched_getaffinity", lambda _pid: set(self.cpus), raising=False)
        patch.setattr(os, "sched_setaffinity", self._pin, raising=False)
        patch.setattr(os, "setpriority", self._set_nice, raising=False)
        patch.setattr(os, "getpriority", lambda _which, _who: self.nice, raising=False)
        patch.setattr(os, "PRIO_PROCESS", 0, raising=False)
        self.policies: list[tuple[int, int]] = []
        for name, value in (("SCHED_RR", 2), ("SCHED_RESET_ON_FORK", 0x40000000)):
            patch.setattr(os, name, value, raising=False)
        patch.setattr(os, "sched_param", lambda priority: priority, raising=False)
        patch.setattr(os, "sched_get_priority_min", lambda _policy: 1, raising=False)
        patch.setattr(os, "sched_setscheduler", self._set_policy, raising=False)
        patch.setattr(sys, "platform", "linux")
        library = SimpleNamespace(prctl=lambda *words: self.slack.append(words))
        patch.setattr(ctypes, "CDLL", lambda _name: library)

    def _pin(self, _pid: int, cpus: set[int]) -> None:
        self.asked.append(set(cpus))
        if not self.allowed:
            raise os_error(errno.EPERM)
        self.cpus = set(cpus)

    def _set_policy(self, _pid: int, policy: int, priority: int) -> None:
        if not self.allowed:
            raise os_error(errno.EPERM)
        self.policies.append((policy, priority))

    def _set_nice(self, _which: int, _who: int, nice: int) -> None:
        if not self.allowed:
            raise os_error(errno.EACCES)
        self.nice = nice


def test_it_takes_the_last_cpu_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 2, 5})
    assert pin_to_last_cpu() == (5, "the last of 3 CPUs")
    assert machine.cpus == {5}


def test_one_cpu_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {3})
    assert pin_to_last_cpu() == (None, "there is only one CPU")
    assert machine.asked == []


def test_pinning_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 1}, allowed=False)
    cpu, why = pin_to_last_cpu()
    assert cpu is None
    assert why == f"refused: {os.strerror(errno.EPERM)}"
    assert machine.cpus == {0, 1}


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, {0, 1})
    monkeypatch.delattr(os, "sched_setaffinity")
    assert pin_to_last_cpu() == (None, "this system has no CPU affinity")
    assert keep_off(1) is False


def test_its_place_says_what_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 1, 2, 3})
    place = take_place()
    assert place.cpu == 3
    assert machine.nice == place.nice < 0
    assert place.why_nice == "raised"
    assert machine.slack == [(29, 1000, 0, 0, 0)]  # PR_SET_TIMERSLACK, ns
    assert set(place.to_json()) >= {"cpu", "why_cpu", "nice", "why_nice"}


def test_short_reads_may_come_before_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 1})
    assert take_place().real_time is False
    assert machine.policies == []
    place = take_place(short_reads=True)
    assert place.real_time is True
    assert machine.policies == [(2 | 0x40000000, 1)]
    assert place.nice == -10  # what holds where the policy is taken away again
    machine.allowed = False
    assert take_place(short_reads=True).real_time is False
    monkeypatch.delattr(os, "sched_setscheduler")
    assert take_place(short_reads=True).real_time is False


def test_its_place_says_what_it_did_not_get(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 1, 2, 3}, allowed=False)
    place = take_place()
    assert (place.cpu, place.nice) == (None, 0)
    assert place.why_cpu.startswith("refused: ")
    assert "not allowed" in place.why_nice
    assert "CAP_SYS_NICE" in place.why_nice
    assert machine.slack  # a sharp timer needs no permission


def test_it_is_pinned_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 1})
    place = take_place(pin=False)
    assert (place.cpu, place.why_cpu) == (None, "not asked for")
    assert machine.asked == []


def test_places_are_plain_values() -> None:
    assert Place(1, "a", -10, "b").to_json() == {
        "cpu": 1,
        "why_cpu": "a",
        "nice": -10,
        "why_nice": "b",
        "real_time": False,
    }


def test_a_measured_process_keeps_off_the_samplers_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 1, 2})
    assert keep_off(2) is True
    assert machine.cpus == {0, 1}
    assert keep_off(2) is True  # it already does
    assert machine.cpus == {0, 1}


def test_none_is_left_to_keep_off_to(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {2})
    assert keep_off(2) is False
    assert machine.asked == []


def test_keeping_off_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0, 1}, allowed=False)
    assert keep_off(1) is False
    assert machine.cpus == {0, 1}


def test_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0})
    assert raise_priority() == machine.nice == -10
    machine.nice, machine.allowed = 5, False
    assert raise_priority() == 5  # as the user started it
    monkeypatch.delattr(os, "setpriority")
    assert raise_priority() == 0


def test_a_timer_that_cannot_be_sharpened_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {0})
    monkeypatch.setattr(sys, "platform", "darwin")
    sharpen_timer()
    assert machine.slack == []
    monkeypatch.setattr(sys, "platform", "linux")

    def no_library(_name: None) -> None:
        raise os_error(errno.ENOENT)

    for loader in (no_library, lambda _name: SimpleNamespace()):
        monkeypatch.setattr(ctypes, "CDLL", loader)
        sharpen_timer()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_real_process_says_truly_where_it_runs() -> None:
    """In a child: this process must stay where it is."""
    code = (
        "import json, os; from edgejoule.power.scheduling import take_place\n"
        "before = sorted(os.sched_getaffinity(0)); place = take_place()\n"
        "print(json.dumps([before, place.to_json(), sorted(os.sched_getaffinity(0)),"
        " os.getpriority(os.PRIO_PROCESS, 0)]))"
    )
    root = Path(scheduling.__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    before, place, after, nice = json.loads(done.stdout)
    assert after == ([before[-1]] if place["cpu"] is not None else before)
    assert place["cpu"] in {None, before[-1]}
    assert place["nice"] == nice

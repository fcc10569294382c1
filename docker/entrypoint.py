"""Entrypoint of the image: from root to the owner of the mounted folder, then the command.

    entrypoint.py (root) --drop, exec--> tini (PID 1, the owner's uid) --> entrypoint.py --> command
         |                                                                      ^
         '------------------- the secrets, through a pipe ---------------------'

Root is needed for two things only: to become the owner of `/app`, whoever that is, with the groups
of the GPU's device nodes; and to open rail files that only root may read. Their descriptors stay
open and are named in EDGEJOULE_RAIL_FDS (JSON, path to descriptor), which the sampler reads.

A model is foreign code under the same user, and what a process was started with can be read by
that user in `/proc/<pid>/environ` for as long as it lives. tini lives as long as the container. So
it is started without the secrets, and they pass it by in a pipe that is read empty once.

Standard library only; baked into the image, so it does not come from the mounted folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

APP = Path("/app")
DEVICES = ("nvmap", "nvhost*", "nvgpu*", "nvgpu/*", "dri/renderD*")
# Power monitors: where they are listed and under which names; what a reader wants of one.
RAIL_CHIPS = (("class/hwmon/*", {"ina3221", "ina238"}), ("bus/iio/devices/*", {"ina3221x"}))
RAIL_FILES = re.compile(
    r"in[1-3]_(input|label|enable)|curr[1-3]_input|shunt[1-3]_resistor|update_interval|samples"
    r"|in_(voltage|current)[0-2]_input|rail_name_[0-2]|running_mode"
)
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
SECOND_STAGE = "--second-stage"


def say(text: str) -> None:
    """Print one line to stderr, named, so that it is not taken for the command's."""
    print(f"entrypoint: {text}", file=sys.stderr, flush=True)


def device_groups(devices: Path = Path("/dev")) -> list[int]:
    """Return the groups that may use the GPU's device nodes, sorted."""
    groups = set()
    for path in (path for pattern in DEVICES for path in devices.glob(pattern)):
        with contextlib.suppress(OSError):
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IRGRP:
                groups.add(status.st_gid)
    return sorted(groups - {0})  # root's own group is not for lending


def open_rail_files(sysfs: Path = Path("/sys")) -> dict[str, int]:
    """Open the power monitors' files that only root may read; return path -> descriptor.

    The descriptors are inheritable. Labels and settings are among the files: one version of
    NVIDIA's 5.10 kernel keeps them for root too, and without its label a rail is of no known board.
    Files that everybody may read are left to the sampler, which opens them itself.
    """
    kept: dict[str, int] = {}
    chips = [(chip, names) for place, names in RAIL_CHIPS for chip in sorted(sysfs.glob(place))]
    for chip, names in chips:
        try:
            if (chip / "name").read_text(encoding="ascii").strip() not in names:
                continue
            files = sorted(file for file in chip.iterdir() if RAIL_FILES.fullmatch(file.name))
        except (OSError, ValueError):
            continue
        for file in files:
            with contextlib.suppress(OSError):  # a channel that is switched off has no value
                if file.stat().st_mode & stat.S_IROTH:
                    continue
                descriptor = os.open(file, os.O_RDONLY)
                os.set_inheritable(descriptor, True)
                kept[str(file)] = descriptor
    return kept


def git_environment(environment: Mapping[str, str], folders: Iterable[str]) -> dict[str, str]:
    """Return GIT_CONFIG_* that tell git to trust `folders`, behind what is already there.

    With `--user` the folder may belong to somebody else, and git then refuses to work in it.
    """
    try:
        count = int(environment.get("GIT_CONFIG_COUNT", "0"))
    except ValueError:
        count = 0
    added = {}
    for folder in folders:
        added[f"GIT_CONFIG_KEY_{count}"] = "safe.directory"
        added[f"GIT_CONFIG_VALUE_{count}"] = folder
        count += 1
    return {**added, "GIT_CONFIG_COUNT": str(count)}


def drop(uid: int, gid: int, groups: Iterable[int]) -> None:
    """Become `uid` and `gid` for good, with `groups` beside them."""
    os.setgroups(sorted({gid, *groups}))
    os.setgid(gid)
    os.setuid(uid)


def split_secrets(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the environment without what looks like a secret, and the secrets."""
    secrets = {name: value for name, value in environment.items() if SECRET.search(name)}
    return {k: v for k, v in environment.items() if k not in secrets}, secrets


def pipe_with(data: bytes) -> int:
    """Return the inheritable reading end of a pipe that holds `data` and is closed behind it."""
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    os.set_blocking(writing, False)  # more than the pipe holds is an error, not a hang
    if os.write(writing, data) != len(data):
        raise OSError("the secrets in the environment are larger than a pipe")
    os.close(writing)
    return reading


def run(command: list[str], environment: Mapping[str, str]) -> int:
    """Replace this process by `command`; only failures return, with the shell's exit status."""
    if len(command) == 1 and command[0].endswith(".py") and not os.access(command[0], os.X_OK):
        command = ["python3", *command]
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 (no shell is the point)
    except FileNotFoundError:
        say(f"{command[0]} is not there (folder {Path.cwd()}); {mount_mend()}")
        return 127
    except OSError as error:
        say(f"{command[0]}: {error.strerror}; is it executable (chmod +x) and has a #! line?")
        return 126


def mount_mend() -> str:
    """Say how the project's folder gets into the container."""
    if any(entry.name != ".cache" for entry in APP.iterdir()):
        return "give a path inside the mounted folder"
    return "/app is empty: start in the project's folder with -v $(pwd):/app"


def second_stage(arguments: list[str]) -> int:
    """Take the secrets out of the pipe and run the command with them."""
    descriptor, command = int(arguments[0]), arguments[1:]
    data = b""
    while part := os.read(descriptor, 65536):
        data += part
    os.close(descriptor)
    return run(command, {**os.environ, **json.loads(data)})


def first_stage(command: list[str]) -> int:
    """Become the owner of `/app`, prepare the environment, hand over to tini."""
    environment = dict(os.environ)
    if os.getuid() == 0:
        environment["EDGEJOULE_RAIL_FDS"] = json.dumps(open_rail_files())
        owner = APP.stat()
        if owner.st_uid == 0:
            say("/app belongs to root, so the command runs as root")
        else:
            drop(owner.st_uid, owner.st_gid, device_groups())
    home = APP / ".cache" / "home"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        say(f"cannot write in /app as uid {os.getuid()}: {error.strerror}; HOME is /tmp")
        home = Path("/tmp")  # noqa: S108 (the container's own)
    environment.update(HOME=str(home), USER="edgejoule", LOGNAME="edgejoule")
    result_dir = APP / environment.get("RESULT_DIR", "raw_data")
    environment.update(git_environment(environment, [str(APP), str(result_dir)]))
    environment, secrets = split_secrets(environment)
    tini = shutil.which("tini") or "/usr/bin/tini"
    descriptor = pipe_with(json.dumps(secrets).encode())
    again = [sys.executable, "-I", __file__, SECOND_STAGE, str(descriptor), *command]
    return run([tini, "-g", "--", *again], environment)


def main() -> int:
    """Run the stage that the arguments name."""
    arguments = sys.argv[1:]
    if arguments[:1] == [SECOND_STAGE]:
        return second_stage(arguments[1:])
    if not arguments:
        say("no command given")
        return 127
    return first_stage(arguments)


if __name__ == "__main__":
    sys.exit(main())

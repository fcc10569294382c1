"""All that this project asks of DVC, in one place.

`dvc.repo.Repo` is not DVC's documented interface, but the only one that takes the token in memory
and raises real exceptions; its command line needs the token in a file and reports success in cases
where nothing was sent. Hence the bound on the version, and the checks after each transfer.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgejoule.dataset.dagshub import Remote, redact, user_of
from edgejoule.errors import EdgejouleError, MeasurementError, ServerError, UsageError

REMOTE_NAME = "origin"
_JOBS = 8
# YAML writers put a long value on the next line.
_META = re.compile(r"^\s+run_json_sha256:\s+['\"]?([0-9a-f]{64})['\"]?\s*$", re.MULTILINE)


def need_dvc() -> None:
    """Check that DVC is there, before anything is begun that needs it.

    Raises:
        UsageError: It is not installed.
    """
    _repo_class()


def init_dvc(dataset: Path) -> None:
    """Make the folder a DVC repository of its own; its git repository is there already.

    Raises:
        UsageError: DVC is not installed.
        MeasurementError: DVC refuses.
    """
    repo_class = _repo_class()
    with _quiet(), _translated(None, None):
        repo_class.init(str(dataset.resolve())).close()


def pointer_of(dataset: Path, run: str) -> Path:
    """Return the path of a run's pointer file."""
    return dataset / f"{run}.dvc"


def pointers(dataset: Path) -> list[str]:
    """Return the names of the runs that have a pointer here, in order."""
    return sorted(path.name[: -len(".dvc")] for path in dataset.glob("*.dvc") if path.is_file())


def pointer_sha256(text: str) -> str | None:
    """Return the SHA-256 of `run.json` that a pointer file's text names, None if it names none."""
    found = _META.search(text)
    return found[1] if found else None


@contextlib.contextmanager
def opened(dataset: Path, remote: Remote | None = None, token: str | None = None) -> Iterator[Any]:
    """Open the dataset's DVC repository; address and token of the remote are given in memory.

    What a pulled `.dvc/config` says of the remote's address is thereby overridden, so that a
    foreign dataset cannot send the token elsewhere.

    Raises:
        UsageError: DVC is not installed.
        ServerError, MeasurementError: What DVC raised within the block, without the token.
    """
    repo_class = _repo_class()
    dataset = dataset.resolve()
    config: dict[str, Any] = {
        # Its own place for DVC's index: a shared one needs rights to a system folder.
        "core": {"analytics": False, "site_cache_dir": str(dataset / ".dvc" / "tmp" / "site")},
    }
    if remote is not None:
        own: dict[str, Any] = {"url": remote.dvc_url, "verify": True}
        if remote.shared and token:
            own.update(auth="basic", user=token, password=token)
        config["remote"] = {REMOTE_NAME: own}
    with _quiet(), _translated(remote, token):
        repo = repo_class(str(dataset), config=config)
        try:
            yield repo
        finally:
            repo.close()


def add_run(repo: Any, run: str, meta: Mapping[str, Any]) -> None:
    """Take a run into DVC's cache and write its pointer, with `meta` in it."""
    for stage in repo.add([str(Path(repo.root_dir) / run)]):
        stage.meta = {"edgejoule": dict(meta)}
        stage.dump()


def push_runs(repo: Any, runs: Sequence[str]) -> int:
    """Send what the remote lacks of these runs; return how many objects DVC says it sent."""
    from dvc_objects.errors import ObjectFormatError

    targets = [str(pointer_of(Path(repo.root_dir), run)) for run in runs]
    try:
        return int(repo.push(targets=targets, remote=REMOTE_NAME, jobs=_JOBS))
    except ObjectFormatError:
        # The remote's list of a run's files is damaged, over which DVC falls. Nothing is lost:
        # whoever pushes asks for every object afterwards and sends what is missing or wrong.
        return 0


def pull_runs(repo: Any, runs: Sequence[str]) -> None:
    """Fetch these runs and put them into the folder; a changed file in the way is an error."""
    targets = [str(pointer_of(Path(repo.root_dir), run)) for run in runs]
    repo.pull(targets=targets, remote=REMOTE_NAME, jobs=_JOBS)


def _repo_class() -> Any:
    try:
        from dvc.repo import Repo
    except ImportError as error:
        raise UsageError(
            f"DVC is not installed ({error})", "install it: pip install 'dvc>=3.60,<4' dvc-http"
        ) from error
    return Repo


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep DVC's warnings off the terminal: what they warn of is checked here and said once."""
    # Its HTTP client complains whenever the interpreter happens to collect it, after we are done.
    logging.getLogger("aiohttp_retry").setLevel(logging.CRITICAL)
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _translated(remote: Remote | None, token: str | None) -> Iterator[None]:
    """Turn DVC's exceptions into the project's, with the token taken out."""
    try:
        yield
    except (EdgejouleError, KeyboardInterrupt):
        raise
    except Exception as error:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        where = remote.label if remote else "the dataset"
        line = redact(" ".join(str(error).split()), token)[:300] or type(error).__name__
        if isinstance(error, LockError):
            raise MeasurementError(
                "another DVC command holds the dataset", "wait for it, then run this again"
            ) from None
        if remote is not None and remote.shared and token:
            user_of(token)  # if the host or the token is the reason, this says so
        if isinstance(error, DvcException):
            raise MeasurementError(f"DVC failed on {where}: {line}") from None
        if isinstance(error, OSError) or type(error).__module__.startswith(("aiohttp", "fsspec")):
            if remote is not None and remote.shared:
                raise ServerError(f"{where} cannot be reached ({line})", "try again") from None
            raise MeasurementError(f"{where}: {line}") from None
        raise

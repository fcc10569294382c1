"""All that this project asks of DVC, in one place.

`dvc.repo.Repo` is not DVC's documented interface, but the only one that takes the token in memory
and raises real exceptions; its command line needs the token in a file and reports success in cases
where nothing was sent. Hence the bound on the version, and the checks after each transfer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgejoule.dataset.versions.dagshub import TOKEN_VARIABLE, basic_authorization, redact, user_of
from edgejoule.dataset.versions.pointers import read_pointer
from edgejoule.dataset.versions.remotes import Remote
from edgejoule.dataset.versions.stores import CONFIG, IN_MEMORY, local_section, safe_text
from edgejoule.errors import EdgejouleError, MeasurementError, ServerError, TokenError, UsageError
from edgejoule.files import disk_error

# In memory alone: DVC would merge what the files say of a remote of the same name.
REMOTE_NAME = IN_MEMORY
_PLUGINS = {"s3": "dvc-s3", "gs": "dvc-gs", "ssh": "dvc-ssh", "azure": "dvc-azure"}
# YAML writers put a long value on the next line.
_META = re.compile(r"^\s+run_json_sha256:\s+['\"]?([0-9a-f]{64})['\"]?\s*$", re.MULTILINE)


def need_dvc(remote: Remote | None = None) -> None:
    """Check that DVC is there, and what the remote's store needs, before anything is begun.

    Raises:
        UsageError: It is not installed.
    """
    _repo_class()
    scheme = remote.dvc_url.partition("://")[0] if remote and "://" in remote.dvc_url else ""
    plugin = _PLUGINS.get(scheme, "")
    if plugin and importlib.util.find_spec(plugin.replace("-", "_")) is None:
        raise _lacking(scheme)


def init_dvc(dataset: Path) -> None:
    """Make the folder a DVC repository of its own; its git repository is there already.

    Raises:
        UsageError: DVC is not installed.
        MeasurementError: DVC refuses.
    """
    repo_class = _repo_class()
    with _quiet(), _translated(dataset, None, None):
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
    foreign dataset cannot send the token elsewhere; what else it may not say is taken out first.
    DVC is held for the block: another command of DVC on this folder waits or refuses.

    Raises:
        UsageError: DVC is not installed, or lacks what the store's kind needs.
        TokenError, ServerError, MeasurementError: What DVC raised within the block, without the
            token.
    """
    repo_class = _repo_class()
    dataset = dataset.resolve()
    config: dict[str, Any] = {
        # Its own place for DVC's index: a shared one needs rights to a system folder.
        # Nothing is staged by DVC, either: what is committed is added at the end.
        "core": {
            "analytics": False,
            "autostage": False,
            "site_cache_dir": str(dataset / ".dvc" / "tmp" / "site"),
        },
    }
    if remote is not None:
        config["remote"] = {REMOTE_NAME: _remote_config(dataset, remote, token)}
    with _quiet(), _without_token(), _translated(dataset, remote, token):
        path = dataset / CONFIG
        safe = safe_text(path)
        if safe is not None:
            path.write_text(safe, encoding="utf-8")
        repo = repo_class(str(dataset), config=config)
        try:
            if remote is not None:
                repo.cloud.get_remote_odb(REMOTE_NAME)  # what this store lacks is said at once
            from dvc.repo import lock_repo

            with lock_repo(repo):
                yield repo
        finally:
            repo.close()


def add_runs(repo: Any, metas: Mapping[str, Mapping[str, Any]]) -> None:
    """Take runs into DVC's cache and write their pointers.

    Args:
        repo: The DVC repository.
        metas: Run -> what its pointer says of it.
    """
    root = Path(repo.root_dir)
    for stage in repo.add([str(root / run) for run in metas]):
        run = Path(stage.outs[0].fs_path).name
        stage.meta = {"edgejoule": dict(metas[run])}
        stage.dump()


def check_out(repo: Any, run: str) -> None:
    """Put a run whose objects are all in the cache into the folder.

    What is in the way is replaced: the caller has seen that there is nothing to lose.

    Raises:
        MeasurementError: As `check_pointer`.
    """
    check_pointer(repo, run)
    repo.stage.load_file(str(pointer_of(Path(repo.root_dir), run)))[0].outs[0].checkout(force=True)


def check_pointer(repo: Any, run: str) -> None:
    """Refuse a pointer that leads elsewhere than to the run's folder.

    Raises:
        MeasurementError: It does, or says anything else that a pointer of a run does not.
    """
    folder = Path(repo.root_dir) / run
    path = pointer_of(folder.parent, run)
    stages = repo.stage.load_file(str(path))
    read = read_pointer(run, path.read_text(encoding="utf-8"))
    outs = [out for stage in stages for out in stage.outs]
    # DVC would take files from the pointer itself, by names that nobody has looked at.
    listed = [out for out in outs if out.files is not None or out.hash_name != "md5"]
    if listed or any(stage.deps or stage.cmd for stage in stages):
        raise MeasurementError(
            f"{run}.dvc says more than where the run is", f"refused; {_owner_mends(run)}"
        )
    if read is None or [out.hash_info.value for out in outs] != [read.oid]:
        raise MeasurementError(f"{run}.dvc contradicts itself", f"refused; {_owner_mends(run)}")
    if [str(out.fs_path) for out in outs] != [str(folder)]:
        raise MeasurementError(
            f"{run}.dvc does not point at the folder {run}",
            f"pull --rev an older version; {_owner_mends(run)}",
        )


def _owner_mends(run: str) -> str:
    return f"its owner mends it: git checkout REV -- {run}.dvc"


def _remote_config(dataset: Path, remote: Remote, token: str | None) -> dict[str, Any]:
    """Return DVC's section of the remote, with the token where the store may see it."""
    if remote.store_takes_token:
        own: dict[str, Any] = {"url": remote.dvc_url, "verify": True}
        if remote.endpoint:
            own["endpointurl"] = remote.endpoint
        if token and remote.endpoint:
            own.update(access_key_id=token, secret_access_key=token)
        elif token:
            # As a header, and not as `auth = basic`: that one aiohttp would send again to wherever
            # a redirect leads, while it takes a header off for another origin.
            own.update(
                auth="custom",
                custom_auth_header="Authorization",
                password=basic_authorization(token),
            )
        return own
    # A foreign store: what the user has set for it, and DVC's own ways to credentials.
    section: dict[str, Any] = dict(local_section(dataset, remote.dvc_url))
    if section.get("auth") == "basic" and not section.get("user"):
        del section["auth"]  # a store that wants a user says so itself
    if remote.endpoint:
        section["endpointurl"] = remote.endpoint
    return {**section, "url": remote.dvc_url}


def _repo_class() -> Any:
    try:
        from dvc.repo import Repo
    except ImportError as error:
        raise UsageError(
            f"DVC is not installed ({error})", "install it: pip install 'dvc>=3.60,<4' dvc-http"
        ) from error
    return Repo


@contextlib.contextmanager
def _without_token() -> Iterator[None]:
    """Keep the token from whatever a library starts while DVC is at work."""
    before = os.environ.pop(TOKEN_VARIABLE, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[TOKEN_VARIABLE] = before


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
def _translated(dataset: Path, remote: Remote | None, token: str | None) -> Iterator[None]:
    """Turn DVC's exceptions into the project's, with the token taken out."""
    try:
        yield
    except (EdgejouleError, KeyboardInterrupt):
        raise
    except Exception as error:
        found = _error_of(error, dataset, remote, token)
        if found is None:
            raise
        raise found from None


def _error_of(  # noqa: PLR0911 (one line per kind of failure)
    error: Exception, dataset: Path, remote: Remote | None, token: str | None
) -> EdgejouleError | None:
    """Return what an exception of DVC or a library below it comes to; None: a fault of ours."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    where = remote.label if remote else str(dataset)
    line = redact(" ".join(str(error).split()), token)[:300] or type(error).__name__
    if isinstance(error, LockError):
        return MeasurementError(
            f"another DVC command holds {dataset}", "wait for it, then run this again"
        )
    lacks = isinstance(error, ImportError) or type(error).__name__ == "RemoteMissingDepsError"
    if lacks and remote is not None and "://" in remote.dvc_url:
        return _lacking(remote.dvc_url.partition("://")[0])
    if type(error).__name__ == "ConfigError" and remote is not None:
        return UsageError(f"the store {remote.store}: {line}", _rights(remote))
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        found = disk_error(Path(str(error.filename2 or error.filename)).parent, error)
        return type(found)(found.message, "mend that, then run this again")
    if remote is not None and remote.needs_token and token:
        user_of(token)  # if the host or the token is the reason, this says so
    if isinstance(error, PermissionError) and remote is not None and remote.shared:
        return TokenError(f"the store {remote.store} refused access ({line})", _rights(remote))
    if isinstance(error, DvcException):
        return MeasurementError(
            f"DVC failed on {where}: {line}", "run it again; --debug shows where"
        )
    if isinstance(error, OSError) or _of_a_client(error):
        if remote is not None and remote.shared:
            return ServerError(f"{where} cannot be reached ({line})", "try again")
        return MeasurementError(f"{where}: {line}", "mend that, then run it again")
    return None


def _lacking(scheme: str) -> UsageError:
    plugin = _PLUGINS.get(scheme, f"dvc[{scheme}]")
    return UsageError(f"DVC lacks what {scheme}:// needs", f"pip install '{plugin}'")


def _rights(remote: Remote) -> str:
    if remote.store_takes_token:
        return f"check what {TOKEN_VARIABLE} may do there"
    return "give DVC its credentials: dvc remote modify --local origin ..."


def _of_a_client(error: Exception) -> bool:
    return type(error).__module__.startswith(("aiohttp", "fsspec", "botocore", "s3fs"))

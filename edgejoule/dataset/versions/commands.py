"""Versions of a dataset: init, push, pull, and where they go.

The dataset is its own git and DVC repository with one pointer file per run; `docs/Versions.md` says
what is done in which order and why.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgejoule.dataset.versions.dagshub import (
    DEFAULT_NAME,
    need_token,
    token_from_environment,
    user_of,
)
from edgejoule.dataset.versions.pulling import Pulled, pull
from edgejoule.dataset.versions.push_checks import unreal as _unreal
from edgejoule.dataset.versions.pushing import Pushed, push
from edgejoule.dataset.versions.remotes import (
    Remote,
    dagshub_remote,
    folder_remote,
    remote_from_url,
    store_from_environment,
    with_store,
)
from edgejoule.dataset.versions.repository import configured_remote, init
from edgejoule.errors import UsageError

__all__ = [
    "Pulled", "Pushed", "_unreal", "configured_remote", "init", "pull", "push", "resolve_remote",
]  # fmt: skip


def resolve_remote(
    dataset: Path, url: str | None, owner: str | None, name: str | None, store: str | None = None
) -> Remote:
    """Decide where to push to or pull from.

    In this order: the URL or folder given; owner and name (flag or environment, the owner may be
    left to the token's user); what the dataset is set to; with a token, `edgejoule-raw-data` of
    its user; else the folder `<dataset>-remote` beside the dataset, which needs neither token nor
    network.

    Args:
        dataset: The dataset's folder.
        url: An address or a folder, or None.
        owner: Owner on the configured host, or None.
        name: Repository on the configured host, or None.
        store: Where the data go, as `remotes.with_store` takes it; None: EDGEJOULE_STORE, or what
            the versions themselves say, or the default of the remote.

    Raises:
        UsageError: URL and names at once, or a bad one.
        TokenError, ServerError: If the token's user has to be asked for.
    """
    remote = _resolve(dataset, url, owner, name)
    store = store or store_from_environment()
    return with_store(remote, store) if store else remote


def _resolve(dataset: Path, url: str | None, owner: str | None, name: str | None) -> Remote:
    if url and (owner or name):
        raise UsageError("an address and --owner or --name are given", "give one of them")
    if url:
        return remote_from_url(url)
    owner = owner or os.environ.get("DAGSHUB_OWNER") or None
    name = name or os.environ.get("DAGSHUB_REPO_NAME") or None
    if owner or name:
        return dagshub_remote(owner or user_of(need_token()), name or DEFAULT_NAME)
    beside = folder_remote(dataset.resolve().with_name(f"{dataset.resolve().name}-remote"))
    configured = configured_remote(dataset)
    token = token_from_environment()
    if configured is not None and (configured.git_url != beside.git_url or not token):
        return configured
    return dagshub_remote(user_of(token), DEFAULT_NAME) if token else beside

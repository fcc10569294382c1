"""Where a dataset's versions go: which git repository, which store of data, and who sees them.

A remote is two addresses: a git repository for the few small files, and a DVC remote, the store,
for the data. A folder holds both. A repository on the configured host (DagsHub) is both under one
address: `<host>/<owner>/<name>.git` speaks git over HTTP, `<host>/<owner>/<name>.dvc` is a store,
and so is the bucket `dvc` behind `<host>/<owner>/<name>.s3`. Any other git address can be used
with any store that DVC knows; it sees git's and DVC's own credentials, never our token.

Standard library only; nothing is asked of anybody here.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass, replace
from pathlib import Path

from edgejoule.dataset.versions.dagshub import TOKEN_VARIABLE, host, repository_address
from edgejoule.errors import UsageError

STORE_VARIABLE = "EDGEJOULE_STORE"
HTTP, S3 = "http", "s3"
_S3_BUCKET = "s3://dvc"
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SCP = re.compile(r"^(?:[\w.-]+@)?([\w.-]{2,}):(?!//)([^\\]+)$")  # user@host:path; not C:\path
_HELPER = re.compile(r"^[A-Za-z0-9+.-]+::")  # a program of git's, as `ext::COMMAND`
_STORES = {
    "s3", "gs", "azure", "abfs", "adl", "oss", "ssh", "http", "https", "webdav", "webdavs", "hdfs",
    "webhdfs", "gdrive",
}  # fmt: skip
# What follows owner and name in the addresses of the host's pages.
_PAGES = {
    "src", "raw", "blob", "tree", "content", "commit", "commits", "branches", "tags", "releases",
    "issues", "pulls", "wiki", "settings", "experiments", "datasets", "models", "annotations",
    "datasources", "collaboration", "discussions", "activity", "graph", "mlflow", "s3", "storage",
}  # fmt: skip


@dataclass(frozen=True)
class Remote:
    """Where versions go.

    Attributes:
        git_url: The git repository; a path for a folder.
        dvc_url: The store of the data; a path for a folder.
        label: How people know it: the folder, or the repository's address.
        shared: Whether others see it: then nothing simulated or cut short goes there unforced.
        owner: Owner on the configured host, "" elsewhere.
        name: Repository on the configured host, "" elsewhere.
        endpoint: The S3 service behind `dvc_url` where it is not Amazon's, else "".
        store_given: The store was asked for, so a version's own settings do not change it.
    """

    git_url: str
    dvc_url: str
    label: str
    shared: bool
    owner: str = ""
    name: str = ""
    endpoint: str = ""
    store_given: bool = False

    @property
    def hosted(self) -> bool:
        """Whether its git repository is on the configured host: then git gets the token."""
        return bool(self.owner)

    @property
    def in_folder(self) -> bool:
        """Whether its git repository is in a folder that push makes."""
        return (
            not self.owner and Path(self.git_url).name == "data.git" and "://" not in self.git_url
        )

    @property
    def store(self) -> str:
        """What tells its store from every other one, and tells people where it is."""
        return f"{self.endpoint} {self.dvc_url}" if self.endpoint else self.dvc_url

    @property
    def store_takes_token(self) -> bool:
        """Whether its store is on the configured host: then DVC gets the token."""
        if not self.shared:
            return False
        if self.endpoint:
            own = re.match(rf"{re.escape(host())}/[^/]+/[^/]+\.(dvc|s3)$", self.endpoint)
            return bool(own) and self.dvc_url.startswith("s3://")
        return bool(re.match(rf"{re.escape(host())}/[^/]+/[^/]+\.dvc$", self.dvc_url))

    @property
    def needs_token(self) -> bool:
        """Whether anything of it is on the configured host."""
        return self.hosted or self.store_takes_token


def folder_remote(folder: Path) -> Remote:
    """Return the remote that lives in a folder; nothing is made here."""
    folder = folder.expanduser().resolve()
    return Remote(str(folder / "data.git"), str(folder / "objects"), str(folder), shared=False)


def dagshub_remote(owner: str, name: str) -> Remote:
    """Return the remote `owner/name` on the configured host, its store over HTTP.

    Raises:
        UsageError: A name that no repository has.
    """
    label = repository_address(owner, name)
    return Remote(f"{label}.git", f"{label}.dvc", label, shared=True, owner=owner, name=name)


def remote_from_url(url: str) -> Remote:
    """Return the remote at an address, in any spelling that people paste.

    `https://HOST/OWNER/NAME` on the configured host, with or without `.git`, a page behind it, or
    as `git@HOST:OWNER/NAME`; a folder; or any other git repository, whose store is then not known
    (`dvc_url` is "") until `with_store` or the settings of its versions name one.

    Raises:
        UsageError: The address holds a password, is incomplete, or is none.
    """
    url = url.strip()
    if not url:
        raise UsageError("the address is empty", "say https://HOST/OWNER/NAME, or a folder")
    if _HELPER.match(url) or url.startswith("-"):
        raise UsageError(f"{url} is no git address", "say https://HOST/OWNER/NAME, or a folder")
    scheme = _SCHEME.match(url)
    parts = urllib.parse.urlsplit(url if scheme else "")
    if parts.password or (parts.username and scheme and scheme[1].lower() in {"http", "https"}):
        shown = f"{parts.scheme}://{parts.hostname}{parts.path}"
        raise UsageError(
            f"the address of {shown} holds a user or password",
            f"leave it out; the token comes from {TOKEN_VARIABLE}",
        )
    path = _path_on_host(url)
    if path is not None:
        return _hosted(url, path)
    if scheme and scheme[1].lower() == "file":
        return _local(Path(urllib.parse.unquote(parts.path)))
    if scheme and scheme[1].lower() not in {"http", "https", "ssh", "git", "git+ssh"}:
        raise UsageError(f"{url} is no git address", "a store of data is named with --store")
    if not scheme and not (_SCP.match(url) and not Path(url).exists()):
        return _local(Path(url))
    return Remote(url.rstrip("/"), "", url.rstrip("/"), shared=True)


def with_store(remote: Remote, store: str) -> Remote:
    """Return the remote with another store for its data.

    Args:
        remote: The remote.
        store: `http` or `s3` (both of the configured host), a DVC address (`s3://bucket/path`,
            `gs://`, `ssh://`, `https://`, ...), or a folder.

    Raises:
        UsageError: DVC knows no such store, or this remote has it not.
    """
    store = store.strip()
    if store.lower() in {HTTP, S3}:
        if not remote.hosted:
            raise UsageError(
                f"--store {store} is DagsHub's, and {remote.label} is not there",
                "name the store: --store s3://BUCKET/PATH, or a folder",
            )
        own = f"{host()}/{remote.owner}/{remote.name}"
        if store.lower() == HTTP:
            return replace(remote, dvc_url=f"{own}.dvc", endpoint="", store_given=True)
        return replace(remote, dvc_url=_S3_BUCKET, endpoint=f"{own}.s3", store_given=True)
    address = store_address(store)
    shared = remote.shared or bool(_SCHEME.match(address))
    return replace(remote, dvc_url=address, endpoint="", shared=shared, store_given=True)


def store_address(store: str) -> str:
    """Return a store's address as DVC takes it, a folder with its whole path.

    Raises:
        UsageError: No such kind of store, or a password in it.
    """
    scheme = _SCHEME.match(store)
    if scheme is None:
        if _SCP.match(store) and not Path(store).exists():
            raise UsageError(f"--store {store} is no store", "say ssh://USER@HOST/PATH")
        return str(Path(store or ".").expanduser().resolve())
    parts = urllib.parse.urlsplit(store)
    if parts.password:
        raise UsageError(
            f"the store's address {scheme[0]}{parts.hostname} holds a password",
            "leave it out; DVC takes it from its own settings: dvc remote modify --local",
        )
    if scheme[1].lower() == "file":
        return str(Path(urllib.parse.unquote(parts.path)).resolve())
    if scheme[1].lower() not in _STORES:
        raise UsageError(
            f"--store {store}: DVC knows no {scheme[1]}",
            "say http, s3, s3://BUCKET/PATH, gs://, azure://, ssh://, https://, or a folder",
        )
    return store.rstrip("/")


def store_from_environment() -> str | None:
    """Return the store that the environment asks for, None if it asks for none."""
    return os.environ.get(STORE_VARIABLE, "").strip() or None


def need_store(remote: Remote) -> Remote:
    """Return the remote if it is known where its data are.

    Raises:
        UsageError: It is not.
    """
    if remote.dvc_url:
        return remote
    raise UsageError(
        f"{remote.label} is not on the configured host {host()}, and names no store for the data",
        "give --store s3://BUCKET/PATH or a folder, or pull from it first; or, if it is a DagsHub "
        f"that may see your {TOKEN_VARIABLE}, set DAGSHUB_CLIENT_HOST to it",
    )


def _path_on_host(url: str) -> str | None:
    """Return the path of an address on the configured host, None if it is elsewhere.

    Raises:
        UsageError: It is on that host, but over an unencrypted connection.
    """
    base = urllib.parse.urlsplit(host())
    if found := re.match(r"^(?:[\w.-]+@)([\w.-]+):(?!//)(.+)$", url):
        return found[2] if found[1] == base.hostname else None
    if not _SCHEME.match(url):
        start = f"{base.netloc}/"
        return url[len(start) :] if url.startswith(start) and not Path(url).exists() else None
    parts = urllib.parse.urlsplit(url)
    if parts.scheme.lower() in {"ssh", "git+ssh"}:
        return parts.path if parts.hostname == base.hostname else None
    if parts.hostname != base.hostname or parts.scheme.lower() not in {"http", "https"}:
        return None
    netloc = parts.netloc.rpartition("@")[2].lower()
    if (parts.scheme.lower(), netloc) == (base.scheme, base.netloc.lower()):
        return parts.path
    if parts.scheme.lower() == "http" and base.scheme == "https":
        raise UsageError(f"{url} would get the token unencrypted", "say https")
    return None


def _hosted(url: str, path: str) -> Remote:
    words = [urllib.parse.unquote(word) for word in path.split("/") if word]
    if len(words) > 2 and words[2] in _PAGES:
        words = words[:2]
    if len(words) != 2:
        raise UsageError(
            f"{url} names no owner or repository on {host()}", f"say {host()}/OWNER/NAME"
        )
    return dagshub_remote(words[0], re.sub(r"\.(git|dvc|s3)$", "", words[1]))


def _local(path: Path) -> Remote:
    """Return the remote of a path: a bare git repository's, or a folder that holds both."""
    path = path.expanduser().resolve()
    if path.name == "data.git" and (path.parent / "objects").is_dir():
        return folder_remote(path.parent)
    is_git = (path / "HEAD").is_file() and (path / "refs").is_dir()
    if is_git or path.name.endswith(".git"):
        return Remote(str(path), "", str(path), shared=False)
    return folder_remote(path)

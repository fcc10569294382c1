"""What a version's `.dvc/config` says of its store, and how it is written.

The file is committed, so that plain `dvc pull` in a clone finds the data and so does our pull. It
comes from others, too: a key that could lead somebody's credentials elsewhere, run a program or
move the cache is not taken over. Standard library only.
"""

from __future__ import annotations

import configparser
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgejoule.dataset.versions.dagshub import host
from edgejoule.dataset.versions.git import git_output
from edgejoule.dataset.versions.remotes import Remote
from edgejoule.errors import UsageError
from edgejoule.files import disk_errors

ORIGIN = "origin"
IN_MEMORY = "edgejoule-in-memory"
CONFIG = ".dvc/config"
Sections = dict[str, dict[str, str]]
_CORE = {"analytics": "false", "check_update": "false", "autostage": "true"}
_KEPT_CACHE = {"type"}
_KEPT_REMOTE = {
    "url", "auth", "verify", "endpointurl", "region", "projectname", "account_name", "ssl_verify",
}  # fmt: skip


def read_settings(text: str) -> Sections:
    """Return the sections of a `.dvc/config` without what is not taken from others.

    A text that is no such file has no sections.
    """
    found: Sections = {}
    for name, section in _parse(text).items():
        kept = _kept(name)
        values = {key: value for key, value in section.items() if key in kept}
        if values.get("ssl_verify", "").lower() == "false":
            del values["ssl_verify"]  # that is for the user to decide, in config.local
        if values:
            found[name] = values
    return found


def format_settings(sections: Mapping[str, Mapping[str, str]]) -> str:
    """Return the text of a `.dvc/config`."""
    lines = []
    for name, values in sections.items():
        lines.append(f"['{name}']" if '"' in name else f"[{name}]")
        lines += [f"    {key} = {value}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def settings_for(remote: Remote | None, before: Sections) -> Sections:
    """Return the settings of a dataset that has its data in this remote's store.

    Args:
        remote: The remote, None if there is none yet.
        before: The settings so far; other remotes in them, and what this one's needs, stay.
    """
    core = {**before.get("core", {}), **_CORE}
    rest = {name: dict(values) for name, values in before.items() if name != "core"}
    if remote is None or not remote.dvc_url:
        return {"core": core, **rest}
    core["remote"] = ORIGIN
    own = _remote_section(ORIGIN)
    section = {"url": remote.dvc_url}
    if remote.store_takes_token and not remote.endpoint:
        section["auth"] = "basic"
    if remote.endpoint:
        section["endpointurl"] = remote.endpoint
    section["verify"] = "true"
    old = before.get(own, {})
    if old.get("url") == remote.dvc_url and not remote.store_takes_token:
        section = {**old, **section}
    return {"core": core, **{name: rest[name] for name in rest if name != own}, own: section}


def with_settings(remote: Remote, sections: Sections) -> Remote:
    """Return the remote with the store that a version's settings name.

    The store that the user asked for is left as it is, and so is a folder's that holds objects: its
    path may have been another when it was written. A repository on the
    configured host keeps its own HTTP store if the settings name the same one at another address,
    as they do after a host was renamed.
    """
    if remote.store_given:
        return remote
    name = sections.get("core", {}).get("remote", ORIGIN)
    section = sections.get(_remote_section(name), {})
    url, endpoint = section.get("url", ""), section.get("endpointurl", "")
    if not url:
        return remote
    if remote.hosted:
        own = f"/{remote.owner}/{remote.name}"
        if urllib.parse.urlsplit(url).path == f"{own}.dvc" and re.match(r"^https?://", url):
            return remote
        if urllib.parse.urlsplit(endpoint).path == f"{own}.s3":
            endpoint = f"{host()}{own}.s3"
    if _is_relative(url) or (remote.in_folder and not _left_the_folder(remote, url)):
        return remote
    shared = remote.shared or "://" in url
    return replace(remote, dvc_url=url, endpoint=endpoint, shared=shared)


def with_store_of(dataset: Path, remote: Remote, rev: str) -> Remote:
    """Return the remote with the store that the settings of a version name.

    Args:
        dataset: The repository.
        remote: The remote that the version was fetched from.
        rev: A commit that is there; one without settings names none.
    """
    return with_settings(remote, settings_at(dataset, rev))


def settings_at(dataset: Path, rev: str) -> Sections:
    """Return the settings of a version, empty if it has none."""
    return read_settings(git_output(dataset, "show", f"{rev}:{CONFIG}") or "")


def write_settings(dataset: Path, sections: Sections) -> None:
    """Write the dataset's `.dvc/config` unless it says just that.

    Raises:
        MeasurementError, UsageError: The disk is full, or the file cannot be written.
    """
    path = dataset / CONFIG
    text = format_settings(sections)
    with disk_errors(dataset):
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
            path.write_text(text, encoding="utf-8")


def safe_text(path: Path) -> str | None:
    """Return what a dataset's `.dvc/config` has to be replaced by, None if it may stay."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    safe = read_settings(text)
    return None if _parse(text) == safe else format_settings(safe)


def local_section(dataset: Path, url: str) -> dict[str, str]:
    """Return what this folder's settings say of a store: the committed ones and the user's own.

    The user's own, `.dvc/config.local`, are never committed and may hold credentials.
    """
    found: dict[str, str] = {}
    for name, filtered in (("config", True), ("config.local", False)):
        path = dataset / ".dvc" / name
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        sections = read_settings(text) if filtered else _parse(text)
        for section, values in sections.items():
            if values.get("url", url) == url and section.startswith('remote "'):
                is_its = values.get("url") == url or section == _remote_section(ORIGIN)
                found.update(values if is_its else {})
    return found


def _parse(text: str) -> Sections:
    parser = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",))
    try:
        parser.read_string("\n".join(line.strip() for line in text.splitlines()))
    except configparser.Error:
        return {}
    return {name.strip("'"): dict(parser.items(name)) for name in parser.sections()}


def _kept(section: str) -> set[str]:
    if section == "core":
        return {*_CORE, "remote"}
    if section == "cache":
        return _KEPT_CACHE
    if section == f'remote "{IN_MEMORY}"':
        return set()
    return _KEPT_REMOTE if section.startswith('remote "') else set()


def _remote_section(name: str) -> str:
    if '"' in name:
        raise UsageError(f"{CONFIG} names a remote {name}", "give it a name without quotes")
    return f'remote "{name}"'


def _left_the_folder(remote: Remote, url: str) -> bool:
    """Say whether a folder's data are elsewhere, and not just under its path of another day."""
    if "://" in url:
        return True
    return Path(url).is_dir() and not any(Path(remote.dvc_url).glob("files/md5/*"))


def _is_relative(url: str) -> bool:
    return "://" not in url and not Path(url).is_absolute()

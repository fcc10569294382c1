"""Every spelling of an address, and every kind of store; nothing is asked of anybody."""

from pathlib import Path

import pytest

from edgejoule.dataset.versions.remotes import (
    Remote,
    dagshub_remote,
    folder_remote,
    need_store,
    remote_from_url,
    with_store,
)
from edgejoule.errors import UsageError


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("DAGSHUB_CLIENT_HOST", "DAGSHUB_USER_TOKEN", "EDGEJOULE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "https://dagshub.com/rosa/power",
        "https://dagshub.com/rosa/power/",
        "https://dagshub.com/rosa/power.git",
        "https://dagshub.com/rosa/power.git/",
        "https://dagshub.com/rosa/power.dvc",
        "https://dagshub.com/rosa/power.s3",
        " https://dagshub.com/rosa/power\n",
        "HTTPS://DagsHub.com/rosa/power",
        "https://dagshub.com/rosa/power/src/main/resnet18.dvc",
        "https://dagshub.com/rosa/power/commit/0a1b2c?tab=files#top",
        "dagshub.com/rosa/power",
        "git@dagshub.com:rosa/power.git",
        "ssh://git@dagshub.com/rosa/power.git",
    ],
)
def test_a_repository_on_the_host_in_any_spelling(url):
    assert remote_from_url(url) == dagshub_remote("rosa", "power")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://dagshub.com/rosa", "names no owner or repository"),
        ("https://dagshub.com/", "names no owner or repository"),
        ("https://dagshub.com/rosa/power/what", "names no owner or repository"),
        ("https://dagshub.com/ro sa/power", "names no owner or repository"),
        ("http://dagshub.com/rosa/power", "unencrypted"),
        ("https://me:geheim@dagshub.com/rosa/power", "holds a user or password"),
        ("https://geheim@github.com/rosa/power", "holds a user or password"),
        ("ssh://me:geheim@github.com/rosa/power", "holds a user or password"),
        ("ftp://dagshub.com/rosa/power", "is no git address"),
        ("s3://bucket/path", "is no git address"),
        ("", "is empty"),
    ],
)
def test_what_is_no_address_is_said_so(url, says):
    with pytest.raises(UsageError, match=says) as caught:
        remote_from_url(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/rosa/power.git",
        "https://dagshub.com.evil.example/rosa/power",
        "https://dagshub.com:8443/rosa/power",
        "git@github.com:rosa/power.git",
        "git@evil.example:dagshub.com/rosa/power",
        "ssh://git@server/srv/power.git",
        "http://server/power.git",
    ],
)
def test_other_git_servers_never_see_the_token(url):
    remote = remote_from_url(url)
    assert (remote.git_url, remote.dvc_url, remote.shared) == (url, "", True)
    assert not remote.hosted
    assert not remote.needs_token
    with pytest.raises(UsageError, match="is not on the configured host https://dagshub"):
        need_store(remote)
    stored = need_store(with_store(remote, "s3://bucket/power/"))
    assert (stored.dvc_url, stored.needs_token) == ("s3://bucket/power", False)


def test_the_host_is_a_setting(monkeypatch):
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "http://127.0.0.1:8080/")
    remote = remote_from_url("http://127.0.0.1:8080/rosa/power/src/main")
    assert remote.git_url == "http://127.0.0.1:8080/rosa/power.git"
    assert remote.needs_token
    assert not remote_from_url("http://127.0.0.1:9/rosa/power").needs_token
    assert not remote_from_url("https://dagshub.com/rosa/power").needs_token


def test_paths(tmp_path):
    here = folder_remote(tmp_path / "disk")
    assert remote_from_url("disk") == here
    assert remote_from_url(f"file://{tmp_path}/disk") == here
    assert here.in_folder
    assert not here.needs_token
    (tmp_path / "disk" / "objects").mkdir(parents=True)
    assert remote_from_url("disk/data.git") == here
    bare = remote_from_url("power.git")
    assert (bare.git_url, bare.dvc_url) == (str(tmp_path / "power.git"), "")
    assert not bare.in_folder
    (tmp_path / "bare" / "refs").mkdir(parents=True)
    (tmp_path / "bare" / "HEAD").touch()
    assert remote_from_url("bare").git_url == str(tmp_path / "bare")
    (tmp_path / "odd:name").mkdir()
    assert remote_from_url("odd:name") == folder_remote(Path("odd:name"))


def test_stores_of_the_host():
    remote = dagshub_remote("rosa", "power")
    http = with_store(remote, "HTTP")
    assert (http.dvc_url, http.endpoint) == ("https://dagshub.com/rosa/power.dvc", "")
    s3 = with_store(remote, "s3")
    assert (s3.dvc_url, s3.endpoint) == ("s3://dvc", "https://dagshub.com/rosa/power.s3")
    assert s3.store_takes_token
    assert s3.store_given
    assert s3.store != with_store(dagshub_remote("rosa", "other"), "s3").store
    for store in ("s3", "http"):
        with pytest.raises(UsageError, match="is DagsHub's"):
            with_store(folder_remote(Path("disk")), store)


def test_other_stores(tmp_path):
    remote = dagshub_remote("rosa", "power")
    for store in ("s3://bucket/x", "gs://bucket", "ssh://me@server/x", "https://server/x.dvc"):
        found = with_store(remote, store)
        assert (found.dvc_url, found.store_takes_token, found.needs_token) == (store, False, True)
    folder = with_store(remote, "disk")
    assert (folder.dvc_url, folder.store_takes_token) == (str(tmp_path / "disk"), False)
    assert with_store(remote, f"file://{tmp_path}/disk").dvc_url == folder.dvc_url
    # Others see what is in a bucket, though git is in a folder.
    assert with_store(folder_remote(Path("x")), "s3://bucket").shared
    assert not with_store(folder_remote(Path("x")), "disk").shared


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ("weird://x", "DVC knows no weird"),
        ("s3://key:geheim@bucket", "holds a password"),
        ("me@server:path", "say ssh://"),
    ],
)
def test_what_is_no_store_is_said_so(store, says):
    with pytest.raises(UsageError, match=says) as caught:
        with_store(dagshub_remote("rosa", "power"), store)
    assert "geheim" not in str(caught.value)


def test_who_claims_to_be_the_host_gets_nothing():
    base = Remote("x", "", "x", shared=True)
    for url, endpoint in (
        ("https://dagshub.com.evil.example/a/b.dvc", ""),
        ("https://evil.example/https://dagshub.com/a/b.dvc", ""),
        ("https://dagshub.com@evil.example/a/b.dvc", ""),
        ("s3://dvc", "https://evil.example/a/b.s3"),
        ("https://dagshub.com/a/b.dvc", "https://evil.example/a/b.s3"),
        ("https://dagshub.com/a/b.dvc/../../x", ""),
    ):
        remote = Remote(base.git_url, url, base.label, shared=True, endpoint=endpoint)
        assert not remote.store_takes_token, url

"""`.dvc/config`: what of it is taken from others, and what is written."""

import pytest

from edgejoule.dataset.versions.remotes import Remote, dagshub_remote, folder_remote, with_store
from edgejoule.dataset.versions.stores import (
    format_settings,
    local_section,
    read_settings,
    safe_text,
    settings_for,
    with_settings,
)

PLAIN = """\
[core]
    analytics = false
    check_update = false
    autostage = true
    remote = origin
['remote "origin"']
    url = https://dagshub.com/rosa/power.dvc
    auth = basic
    verify = true
"""
HOSTILE = """\
[core]
    remote = origin
    hardlink_lock = true
    machine = x
[cache]
    dir = /somewhere
    type = "reflink,hardlink"
['remote "origin"']
    url = https://dagshub.com/rosa/power.dvc
    ssl_verify = false
    password = x
    ask_password = true
    proxy = http://evil.example
    custom_auth_header = X
    credentialpath = /home/rosa/.aws/credentials
['remote "edgejoule-in-memory"']
    url = http://evil.example
[plugins]
    a = b
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("DAGSHUB_CLIENT_HOST", raising=False)


def test_what_is_written_is_read(tmp_path):
    sections = settings_for(dagshub_remote("rosa", "power"), {})
    assert format_settings(sections) == PLAIN
    assert read_settings(PLAIN) == sections
    (tmp_path / "config").write_text(PLAIN)
    assert safe_text(tmp_path / "config") is None


def test_only_addresses_are_taken_from_others(tmp_path):
    (tmp_path / "config").write_text(HOSTILE)
    assert read_settings(HOSTILE) == {
        "core": {"remote": "origin"},
        "cache": {"type": '"reflink,hardlink"'},
        'remote "origin"': {"url": "https://dagshub.com/rosa/power.dvc"},
    }
    assert safe_text(tmp_path / "config") == format_settings(read_settings(HOSTILE))
    for text in ("", "no settings", "[core\nx", "key = 1\n[core]"):
        assert read_settings(text) == {}


def test_dvc_reads_the_same_as_we(tmp_path):
    configobj = pytest.importorskip("configobj")
    sections = settings_for(dagshub_remote("rosa", "power"), {"cache": {"type": "reflink"}})
    (tmp_path / "config").write_text(format_settings(sections))
    read = configobj.ConfigObj(str(tmp_path / "config"))
    found = {name.strip("'"): dict(values) for name, values in read.items()}
    assert found == sections


def test_the_store_of_a_version_is_followed():
    remote = dagshub_remote("rosa", "power")
    for store in ("http", "s3", "s3://bucket/x", "/mnt/disk"):
        told = with_store(remote, store)
        found = with_settings(remote, settings_for(told, {}))
        assert (found.dvc_url, found.endpoint) == (told.dvc_url, told.endpoint)
        assert found.store_takes_token == (store in {"http", "s3"})
    given = with_store(remote, "s3")
    assert with_settings(given, settings_for(with_store(remote, "http"), {})) == given
    assert with_settings(remote, {}) == remote


def test_a_host_that_was_renamed_keeps_its_store(monkeypatch):
    before = {name: settings_for(with_store(dagshub_remote("rosa", "power"), name), {})
              for name in ("http", "s3")}  # fmt: skip
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "https://hub.example")
    now = dagshub_remote("rosa", "power")
    assert with_settings(now, before["http"]) == now
    moved = with_settings(now, before["s3"])
    assert moved.endpoint == "https://hub.example/rosa/power.s3"
    assert moved.store_takes_token


def test_a_store_named_by_a_foreign_version_gets_no_token():
    remote = Remote("https://github.com/a/b", "", "x", shared=True)
    sections = {'remote "mine"': {"url": "https://evil.example/rosa/power.dvc"}}
    found = with_settings(remote, {"core": {"remote": "mine"}, **sections})
    assert found.dvc_url == "https://evil.example/rosa/power.dvc"
    assert not found.needs_token
    hosted = with_settings(
        dagshub_remote("rosa", "power"),
        {'remote "origin"': {"url": "s3://dvc", "endpointurl": "https://evil.example/x/y.s3"}},
    )
    assert not hosted.store_takes_token


def test_a_folder_is_where_it_is_found(tmp_path):
    remote = folder_remote(tmp_path / "here")
    assert with_settings(remote, settings_for(folder_remote(tmp_path / "there"), {})) == remote


def test_other_settings_stay():
    before = {
        "core": {"remote": "origin"},
        'remote "mirror"': {"url": "s3://mirror"},
        'remote "origin"': {"url": "s3://bucket", "region": "eu-1", "endpointurl": "https://s3"},
    }
    remote = with_store(dagshub_remote("rosa", "power"), "s3://bucket")
    after = settings_for(remote, before)
    assert after['remote "mirror"'] == {"url": "s3://mirror"}
    assert after['remote "origin"']["region"] == "eu-1"
    assert "region" not in settings_for(with_store(remote, "http"), before)['remote "origin"']


def test_what_the_user_set_for_a_store_is_used(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "['remote \"mine\"']\n    url = s3://bucket\n    region = eu-1\n    profile = theirs\n"
    )
    (tmp_path / ".dvc" / "config.local").write_text("['remote \"origin\"']\n    profile = mine\n")
    found = local_section(tmp_path, "s3://bucket")
    assert found == {"url": "s3://bucket", "region": "eu-1", "profile": "mine"}
    assert local_section(tmp_path, "s3://other") == {"profile": "mine"}


def test_the_token_is_a_header_that_a_redirect_loses(tmp_path):
    from edgejoule.dataset.versions.dagshub import basic_authorization
    from edgejoule.dataset.versions.dvc_adapter import _remote_config

    remote = dagshub_remote("rosa", "power")
    http = _remote_config(tmp_path, remote, "tok-6b1f")
    assert "user" not in http  # the client would send that one to wherever a redirect leads
    assert (http["auth"], http["password"]) == ("custom", basic_authorization("tok-6b1f"))
    s3 = _remote_config(tmp_path, with_store(remote, "s3"), "tok-6b1f")
    assert s3["access_key_id"] == s3["secret_access_key"] == "tok-6b1f"
    for store in ("s3://bucket", "https://elsewhere.example/rosa/power.dvc", str(tmp_path)):
        assert "tok-6b1f" not in str(
            _remote_config(tmp_path, with_store(remote, store), "tok-6b1f")
        )


def test_a_foreign_store_without_a_user_is_asked_without_one(tmp_path):
    from edgejoule.dataset.versions.dvc_adapter import _remote_config

    url = "https://elsewhere.example/rosa/power.dvc"
    (tmp_path / ".dvc").mkdir()
    section = f"['remote \"origin\"']\n    url = {url}\n    auth = basic\n"
    (tmp_path / ".dvc" / "config").write_text(section)
    remote = with_store(dagshub_remote("rosa", "power"), url)
    assert "auth" not in _remote_config(tmp_path, remote, None)
    (tmp_path / ".dvc" / "config.local").write_text(
        "['remote \"origin\"']\n    user = rosa\n    password = geheim\n"
    )
    assert _remote_config(tmp_path, remote, None)["auth"] == "basic"

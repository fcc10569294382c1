"""A stand-in for DagsHub's stores, from real servers: nginx, git's http-backend, fcgiwrap.

`/<owner>/<name>.git` speaks git over HTTP, `/<owner>/<name>.dvc/` keeps DVC's objects as files; the
token opens both by basic authorisation. `/<owner>/<name>.s3/` is the S3 endpoint: it asks that the
token is the access key and hands on to moto's server (`s3.py`), if one runs; the signature is not
checked. The three REST calls that the project makes are answered too, repositories being made by a
CGI program; their answers are this project's reading of DagsHub's client and prove nothing about
the host itself.

What it does not show: TLS, limits of size and rate, and what DagsHub answers when it is unwell.

Settings and logs hold the tokens by nature: they lie in `private`, apart from what clients sent.

The programs come from the Debian packages `nginx` and `fcgiwrap`, installed or unpacked below
EDGEJOULE_SERVERS_ROOT.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GIT_HTTP_BACKEND = Path("/usr/lib/git-core/git-http-backend")
USER = "rosa"  # the user behind the token
# Drawn anew for each session: wherever one is found, it was left there by this session.
TOKEN = f"tok-{secrets.token_hex(10)}"
READER = f"read-{secrets.token_hex(10)}"  # may read and change nothing
WRONG = f"wrong-{secrets.token_hex(10)}"  # nobody's

_NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {home}/private/nginx.pid;
error_log {home}/private/error.log;
events {{ worker_connections 128; }}
http {{
    access_log {home}/private/access.log;
    client_max_body_size {max_body};
    client_body_temp_path {home}/temp/body;
    proxy_temp_path {home}/temp/proxy;
    fastcgi_temp_path {home}/temp/fastcgi;
    uwsgi_temp_path {home}/temp/uwsgi;
    scgi_temp_path {home}/temp/scgi;
    types {{ }}
    default_type application/octet-stream;

    # Who may change anything: the reader's token may not.
    map $remote_user $reads_only {{ default 0; {reader} 1; }}
    map "$reads_only:$request_method:$uri:$args" $forbidden {{
        default 0;
        ~^1:(PUT|POST|DELETE):.*\\.dvc/ 1;
        ~^1:.*git-receive-pack 1;
    }}
    map $http_authorization $knows_token {{
        default 0;
        "Bearer {token}" 1;
        "Bearer {reader}" 1;
    }}
    map $http_authorization $access_key {{
        default nobody;
        ~Credential={token}/ writer;
        ~Credential={reader}/ reader;
    }}
    map "$access_key:$request_method" $forbidden_s3 {{
        default 0;
        ~^nobody 1;
        ~^reader:(PUT|POST|DELETE) 1;
    }}
    {zone}

    server {{
        listen 127.0.0.1:{port};
        auth_basic "versions";
        auth_basic_user_file {home}/private/accounts;
        dav_access user:rw group:r all:r;
        {redirect}

        location = /api/v1/user {{
            auth_basic off;
            default_type application/json;
            if ($knows_token = 0) {{ return 401 '{{"message": "unauthorized"}}'; }}
            return 200 '{{"id": 7, "username": "{login}", "login": "{login}"}}';
        }}
        location = /api/v1/user/repos {{
            auth_basic off;
            if ($knows_token = 0) {{ return 401; }}
            fastcgi_pass unix:{home}/cgi.sock;
            fastcgi_param SCRIPT_FILENAME {home}/new-repository;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param HTTP_AUTHORIZATION "";
            fastcgi_param CONTENT_LENGTH $content_length;
        }}
        location ~ "^/[^/]+/[^/]+\\.git/" {{
            if ($forbidden) {{ return 403; }}
            fastcgi_pass unix:{home}/cgi.sock;
            fastcgi_buffering off;
            fastcgi_param SCRIPT_FILENAME {backend};
            fastcgi_param GIT_PROJECT_ROOT {home}/git;
            fastcgi_param GIT_HTTP_EXPORT_ALL yes;
            fastcgi_param PATH_INFO $uri;
            fastcgi_param QUERY_STRING $args;
            fastcgi_param REMOTE_USER {login};  # the name that git gave is the token
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param HTTP_AUTHORIZATION "";
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
            fastcgi_param GIT_PROTOCOL $http_git_protocol;
        }}
        location ~ "^/[^/]+/[^/]+\\.dvc/" {{
            if ($forbidden) {{ return 403; }}
            # DVC uploads by POST, nginx stores by PUT: the second server turns one into the other.
            error_page 418 = @store;
            if ($request_method = POST) {{ return 418; }}
            {limit}
            root {home}/dvc;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
        location @store {{
            {limit}
            proxy_method PUT;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Authorization "";
            proxy_pass http://unix:{home}/store.sock;
        }}
        location ~ "^/[^/]+/[^/]+\\.s3(?<key>/.*)$" {{
            auth_basic off;
            keepalive_timeout 0;  # a refused body would be read as the next request
            if ($forbidden_s3) {{ return 403; }}
            {limit}
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_pass http://127.0.0.1:{s3_port}$key$is_args$args;
        }}
    }}
    server {{
        listen unix:{home}/store.sock;
        access_log off;
        dav_access user:rw group:r all:r;
        location / {{
            root {home}/dvc;
            dav_methods PUT;
            create_full_put_path on;
        }}
    }}
}}
"""

_REDIRECT = 'if ($uri ~ "{paths}") {{ return 302 {to}$request_uri; }}'

# A #! line ends at the first space of a path: the shell starts this same file as Python.
_NEW_REPOSITORY = """\
#!/bin/sh
'''exec' "{python}" "$0" # '''
import os, subprocess, sys, urllib.parse
form = urllib.parse.parse_qs(sys.stdin.read(int(os.environ["CONTENT_LENGTH"] or 0)))
path = "{home}/git/{login}/" + form["name"][0] + ".git"
if os.path.exists(path):
    print("Status: 422\\nContent-Type: application/json\\n\\n" + '{{"message": "exists"}}')
else:
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", path], check=True)
    subprocess.run(["git", "-C", path, "config", "http.receivepack", "true"], check=True)
    print("Status: 201\\nContent-Type: application/json\\n\\n{{}}")
"""


@dataclass
class StandIn:
    """A running stand-in; a change of its settings counts from the next start on.

    Attributes:
        home: Holds its stores and sockets; `private` in it settings and logs.
        port: On 127.0.0.1.
        token: May do everything.
        reader: May read.
        max_body: Largest body that it takes, as nginx writes it; "0" for any.
        rate: Objects per second that it takes or gives, None for as many as it can.
        redirect: Address to which it sends requests, "" for none.
        redirected: Pattern of the paths that it sends there, "" for all.
        s3_port: Where the S3 server listens; 9 (nobody) without one.
    """

    home: Path
    port: int
    token: str
    reader: str
    max_body: str = "0"
    rate: int | None = None
    redirect: str = ""
    redirected: str = ""
    s3_port: int = 9
    _cgi: subprocess.Popen[bytes] | None = None
    _nginx: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base address, for DAGSHUB_CLIENT_HOST."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def private(self) -> Path:
        """Settings and logs, with the tokens in them."""
        return self.home / "private"

    def repository(self, repository: str) -> Path:
        """The bare git repository of `owner/name`."""
        return self.home / "git" / f"{repository}.git"

    def objects(self, repository: str) -> list[Path]:
        """The stored DVC objects of `owner/name`."""
        folder = self.home / "dvc" / f"{repository}.dvc"
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def new_repository(self, repository: str) -> None:
        """Make the git repository `owner/name`."""
        path = str(self.repository(repository))
        for command in (
            ["init", "-q", "--bare", "-b", "main", path],
            ["-C", path, "config", "http.receivepack", "true"],
        ):
            subprocess.run(["git", *command], check=True, env=program_environment())

    def refuse_next_push(self, repository: str) -> None:
        """Let the git repository refuse one push, and take those after it."""
        hook = self.repository(repository) / "hooks" / "pre-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text('#!/bin/sh\nrm -- "$0"\necho "the disk is full" >&2\nexit 1\n')
        hook.chmod(0o755)

    def log(self) -> str:
        """What it was asked and answered."""
        return (self.private / "access.log").read_text(encoding="utf-8")

    def start(self) -> None:
        """Start both programs and wait until they answer."""
        for folder in ("git", "dvc", "temp", "private"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        for name in ("cgi.sock", "store.sock"):
            (self.home / name).unlink(missing_ok=True)
        accounts = "".join(
            f"{user}:{{PLAIN}}{secret}\n"
            for secret in (self.token, self.reader)
            for user in (USER, secret)
        )
        (self.private / "accounts").write_text(accounts, encoding="utf-8")
        program = self.home / "new-repository"
        text = _NEW_REPOSITORY.format(python=sys.executable, home=self.home, login=USER)
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
        slow = self.rate is not None
        settings = _NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",
            home=self.home,
            port=self.port,
            token=self.token,
            reader=self.reader,
            login=USER,
            backend=GIT_HTTP_BACKEND,
            max_body=self.max_body,
            s3_port=self.s3_port,
            zone=f"limit_req_zone $server_port zone=all:1m rate={self.rate}r/s;" if slow else "",
            limit="limit_req zone=all burst=9999;" if slow else "",
            redirect=_REDIRECT.format(paths=self.redirected or "^/", to=self.redirect)
            if self.redirect
            else "",
        )
        (self.private / "nginx.conf").write_text(settings, encoding="utf-8")
        log = (self.private / "programs.log").open("ab")
        environment = program_environment()
        # Its workers outlive it: a session of its own makes them one group.
        self._cgi = subprocess.Popen(
            [find_program("fcgiwrap"), "-c", "2", "-s", f"unix:{self.home}/cgi.sock"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=environment,
        )  # fmt: skip
        _wait_for((self.home / "cgi.sock").exists)
        if os.geteuid() == 0:
            (self.home / "cgi.sock").chmod(0o777)
        self._nginx = subprocess.Popen(
            [find_program("nginx"), "-p", str(self.home), "-e", "private/error.log",
             "-c", "private/nginx.conf"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=environment,
        )  # fmt: skip
        log.close()
        _wait_for(self._answers)

    def stop(self) -> None:
        """End both programs and their workers."""
        for process in (self._nginx, self._cgi):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._nginx = self._cgi = None
        # A worker may outlive its master by a moment and still take connections.
        _wait_for(lambda: not self._listens())

    def _answers(self) -> bool:
        if self._nginx is not None and self._nginx.poll() is not None:
            raise RuntimeError((self.private / "programs.log").read_text(encoding="utf-8"))
        return self._listens()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def find_program(name: str) -> str | None:
    """Return the path of `nginx` or `fcgiwrap`, None if it is not there."""
    root = os.environ.get("EDGEJOULE_SERVERS_ROOT")
    folders = [f"{root}/usr/sbin"] if root else ["/usr/sbin", "/usr/bin"]
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))


def program_environment() -> dict[str, str]:
    """Return the programs' environment: unpacked ones need their library's folder."""
    root = os.environ.get("EDGEJOULE_SERVERS_ROOT")
    kept = {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"}
    if root:
        folders = [str(path) for path in Path(root).glob("usr/lib/*-linux-gnu*")]
        kept["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    return kept


def lacking() -> str | None:
    """Return why the servers cannot run here, None if they can."""
    for name in ("nginx", "fcgiwrap"):
        if find_program(name) is None:
            return f"{name} is not installed (Debian: apt install nginx-light fcgiwrap)"
    return None if GIT_HTTP_BACKEND.exists() else f"{GIT_HTTP_BACKEND} is not installed"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(home: Path, token: str, reader: str, s3_port: int = 9) -> Iterator[StandIn]:
    """Run a stand-in on a free port until the block ends."""
    home.mkdir(parents=True, exist_ok=True)
    standin = StandIn(home, free_port(), token, reader, s3_port=s3_port)
    try:
        standin.start()
        yield standin
    finally:
        standin.stop()


def _wait_for(ready: object, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not start")
        time.sleep(0.005)

"""A child process that does as it is told; run as `python -m tests.support_children`."""

import os
import signal
import subprocess
import sys
import time

from edgejoule.errors import UsageError
from edgejoule.processes import Parent, child_main


def main(config: dict, parent: Parent) -> None:
    """Do what `config["do"]` says."""
    do = config["do"]
    parent.say("ready", environment=dict(os.environ), pid=os.getpid())
    if do == "refuse":
        raise UsageError("bad wish", "wish better")
    if do == "crash":
        raise RuntimeError("something\nbroke")
    if do == "quit":
        sys.exit(7)
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "obey":
        while not parent.poll(1.0):
            pass
        parent.say("done", commands=parent.commands)
    if do == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    if do == "breed":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        parent.say("child", pid=child.pid)
        while not parent.poll(1.0):
            pass
    if do == "done":
        parent.say("done", value=config.get("value"))


if __name__ == "__main__":
    child_main(main)

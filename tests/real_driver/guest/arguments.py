"""Says what it was given, leaves a file and an exit status: what boot.sh promises of a program."""

import os
import sys
from pathlib import Path

print("given:", *sys.argv[1:], sep="|")
print("on stderr", file=sys.stderr)
Path(os.environ["OUT"], "left.txt").write_text(str(Path.cwd()))
sys.exit(7)

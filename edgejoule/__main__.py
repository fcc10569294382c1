"""`python -m edgejoule` is the installed command."""

import sys

from edgejoule.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

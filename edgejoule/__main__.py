"""`python -m edgejoule` is the installed command."""

from edgejoule.cli.leave import leave
from edgejoule.cli.main import main

if __name__ == "__main__":
    leave(main())

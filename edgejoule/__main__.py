"""`python -m edgejoule` is the installed command."""

from edgejoule.cli.main import run

if __name__ == "__main__":
    run()

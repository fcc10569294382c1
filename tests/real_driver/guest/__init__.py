"""Programs that run in the guest: CPython 3.11, the standard library, and this project."""

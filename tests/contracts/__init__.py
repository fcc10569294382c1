"""Contract tests: what this project relies on in other people's packages, read off the packages.

`prepare.sh` fetches them; `tests/lanes.sh contracts` runs the lane with skips forbidden.
"""

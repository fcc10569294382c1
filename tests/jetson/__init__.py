"""What a board can tell and nothing else can: run with `tests/lanes.sh jetson`, send the page."""

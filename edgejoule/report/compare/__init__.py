"""Two datasets or runs held against each other."""

"""`report.html`: one file with everything in it."""

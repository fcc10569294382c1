"""Lane 5: the report's page in Debian's chromium."""

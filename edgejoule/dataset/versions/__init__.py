"""The versions of a dataset: git and DVC, remotes, what is sent, fetched and checked there."""

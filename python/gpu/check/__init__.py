"""What ``check.sh`` runs on a machine with a GPU: Python and numpy are all it needs there."""

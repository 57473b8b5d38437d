"""Stored examples of the packed format: a change that reads old sessions differently shows here."""

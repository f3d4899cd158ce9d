"""Methods: one file = one method; the folder is the role of the part that makes it what it is."""

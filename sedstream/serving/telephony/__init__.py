"""Telephone platforms: one dialect without I/O a vendor, and one bridge that mounts a dialect on a socket."""

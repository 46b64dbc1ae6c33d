"""The wire: protocol without I/O, a server and a client around it."""

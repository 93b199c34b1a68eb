"""The runtime floor: the host, machine code, threads, memory and the disk cache.

Nothing is imported here: each module is imported by its own name, so that a program which needs only one of them
does not pay for the others.
"""

"""What a process in the sandbox may use at most; set by itself before it runs anything that is not ours.

Runs inside the sandbox: standard library only.
"""

import os
import resource

OUT_OF_MEMORY = 77
"""Exit status of a program that needed more memory than it may use."""


def confine(user: int, cpu_seconds: int, memory_bytes: int, processes: int, files: int, file_bytes: int) -> None:
    """Take the limits, for good, and become `user` where we are root: root's processes are not counted."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    # A second more for the hard limit: at the soft one the kernel says what it kills for.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))

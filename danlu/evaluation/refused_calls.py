"""The system calls that a program in the sandbox does without: those for memory that belongs to no process, and for
namespaces of its own, in which it could take such memory as root.

Out: a filter as bubblewrap's `--seccomp` takes it, a program for the kernel (`man 2 seccomp`). Such memory is counted
nowhere: without the filter a program could fill the machine's with files that have no name, shared segments, or a
folder in memory that it mounts where it is root, in a namespace of its own.
"""

import errno
import platform
import struct

CALLS = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "clone3": (435, 435),
    "unshare": (272, 97),
    "mount": (165, 40),
    "fsopen": (430, 430),
}
"""Numbers on x86_64 and on aarch64 (Linux: x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h)."""

CLONE = (56, 220)
NEW_NAMESPACES = 0x7E020000
"""The bits of `clone`'s flags that ask for a namespace of one's own, in which one is root (linux/sched.h). Of `clone3`,
whose flags lie where no filter sees them, the C library does without."""

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Place of a machine's numbers above, and what the kernel calls it (linux/audit.h)."""

SECOND_NUMBERS = 0x40000000
"""From here on x86_64 has all its calls once more."""

LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16
"""Where `struct seccomp_data` has them."""

ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.ENOSYS


def call_filter() -> bytes:
    """The filter for this machine; empty for one whose numbers are not known here."""
    if platform.machine() not in MACHINES:
        return b""
    place, machine = MACHINES[platform.machine()]
    refused = [(IF_EQUAL, numbers[place]) for numbers in CALLS.values()] + [(IF_AT_LEAST, SECOND_NUMBERS)]
    # A jump says how many instructions it skips: where it holds, and where not.
    to_refusal = len(refused) + 5
    code = [(LOAD, 0, 0, MACHINE), (IF_EQUAL, 0, to_refusal, machine), (LOAD, 0, 0, NUMBER)]
    code += [(test, len(refused) - done + 3, 0, number) for done, (test, number) in enumerate(refused)]
    code += [(IF_EQUAL, 0, 2, CLONE[place]), (LOAD, 0, 0, FIRST_ARGUMENT), (IF_ANY_BIT, 1, 0, NEW_NAMESPACES)]
    code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)

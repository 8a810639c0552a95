"""Why an engine ended, in words for a person: from its exit status and the last lines of its log.

Knows exit codes, signals and how Python and vLLM complain; knows no process.
"""

from collections.abc import Mapping, Sequence

SIGNALS: Mapping[int, str] = {
    1: "SIGHUP: its terminal went away",
    2: "SIGINT: interrupted by hand",
    4: "SIGILL: this processor lacks an instruction that the build uses",
    6: "SIGABRT: it gave up on itself",
    7: "SIGBUS: memory or /dev/shm ran out, or a file shrank under it",
    8: "SIGFPE: arithmetic fault",
    9: "SIGKILL: out of memory? or killed by hand",
    11: "SIGSEGV: a crash in native code",
    15: "SIGTERM: asked to end by somebody else",
}
EXIT_CODES: Mapping[int, str] = {
    0: "it ended by itself as if all were well",
    2: "it does not understand its command line",
    126: "its program may not be run",
    127: "its program was not found",
}
USAGE = 2  # argparse's exit status for a flag or value it does not know
TELLING_LENGTH = 240  # characters of the telling line that are quoted
# Lines that end a traceback or announce a failure, most specific last. Shutdown noise comes after the cause.
TELLING = ("Error: ", "error: ", "Exception: ", "CUDA error", "out of memory", "Address already in use")
NOISE = ("EngineDeadError", "See stack trace above", "resource_tracker", "Engine core initialization failed")

# How PyTorch, Python, the C++ library, the kernel and vLLM say that there was not room for it, in lower case.
OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "cannot allocate memory",
    "can't allocate memory",
    "no available memory",
    "kv cache memory",
    "free memory on device",
    "memoryerror",
    "bad_alloc",
)
KILLED = 9  # nobody of ours sends SIGKILL to an engine that is wanted: the kernel does, where memory ends
MEMORY_SIGNALS = (KILLED, 7)  # SIGBUS: /dev/shm is full


def describe_end(code: int | None, signal: int | None, log_tail: Sequence[str]) -> str:
    """Return how it ended and, where its log tells, why."""
    if signal is not None:
        how = f"was killed by signal {signal} ({SIGNALS.get(signal, 'no usual one')})"
    else:
        how = f"ended with status {code}"
        if code is not None and code in EXIT_CODES:
            how += f" ({EXIT_CODES[code]})"
    cause = telling_line(log_tail)
    return f"{how}: {cause}" if cause else how


def telling_line(log_tail: Sequence[str]) -> str:
    """Return the line that says most about a failure; "" where none does."""
    for line in reversed(log_tail):
        if any(mark in line for mark in TELLING) and not any(mark in line for mark in NOISE):
            return line.strip()[:TELLING_LENGTH]
    return ""


def hopeless(code: int | None, log_tail: Sequence[str]) -> bool:
    """Whether an engine that never became ready would end the same way again: it refuses its own command line."""
    return code == USAGE and any("error: " in line for line in log_tail)


def lacked_memory(signal: int | None, log_tail: Sequence[str]) -> bool:
    """Whether it ended because there was no room for it, as far as signal and last lines tell."""
    return signal in MEMORY_SIGNALS or any(words in line.lower() for line in log_tail for words in OUT_OF_MEMORY)

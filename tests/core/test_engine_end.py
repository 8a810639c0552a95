"""Why an engine ended, said so that a volunteer understands it."""

from node.core.engine_end import describe_end, hopeless, lacked_memory, telling_line


def test_a_signal_is_said_in_words() -> None:
    assert describe_end(None, 9, ()) == "was killed by signal 9 (SIGKILL: out of memory? or killed by hand)"
    assert "no usual one" in describe_end(None, 63, ())


def test_a_status_comes_with_the_line_that_tells_why() -> None:
    tail = ("Traceback (most recent call last):", "ValueError: no room for the KV cache", "bye")
    assert describe_end(1, None, tail) == "ended with status 1: ValueError: no room for the KV cache"


def test_a_silent_end_without_fault_is_named_as_such() -> None:
    assert describe_end(0, None, ()) == "ended with status 0 (it ended by itself as if all were well)"


def test_the_noise_of_every_shutdown_is_passed_over() -> None:
    tail = ("OSError: [Errno 98] Address already in use", "vllm.v1.engine.exceptions.EngineDeadError: it died")
    assert telling_line(tail) == "OSError: [Errno 98] Address already in use"


def test_a_quoted_line_is_bounded() -> None:
    assert len(telling_line((f"ValueError: {'x' * 10_000}",))) == 240


def test_only_a_refused_command_line_is_hopeless() -> None:
    assert hopeless(2, ("api_server.py: error: unrecognized arguments: --nonsense",))
    assert not hopeless(2, ("something else",))
    assert not hopeless(1, ("api_server.py: error: unrecognized arguments",))


def test_a_want_of_memory_is_known_by_signal_or_words() -> None:
    assert lacked_memory(9, ())
    assert lacked_memory(7, ())
    assert lacked_memory(None, ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",))
    assert lacked_memory(None, ("ValueError: Free memory on device (1.2/80 GiB) on startup is less than desired",))
    assert lacked_memory(None, ("ValueError: No available memory for the cache blocks.",))
    assert not lacked_memory(11, ("ValueError: no room",))
    assert not lacked_memory(None, ("ValueError: something else",))

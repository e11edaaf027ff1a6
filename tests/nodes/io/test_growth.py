"""What is judged of the growth of a process."""

from __future__ import annotations

import os
import threading

from peerfabric.nodes.io.growth import GROSS, GROWTH, Growth, resident, threads, worked

MiB = 1024 * 1024


def test_growth_without_work_is_the_programs_own() -> None:
    """Gigabytes that came while ZeroMQ's threads slept are suspected of nothing."""
    growth = Growth()
    assert not growth.look(100 * MiB, 1.0, 0)
    assert not growth.look(5000 * MiB, 1.001, 0)
    assert growth.bytes <= 5 * MiB


def test_growth_with_work_is_suspected() -> None:
    """What grew while they worked counts, and what went away again does not."""
    growth = Growth()
    growth.look(100 * MiB, 1.0, 0)
    assert not growth.look(300 * MiB, 1.2, 0)
    assert not growth.look(150 * MiB, 1.2, 0)
    assert growth.bytes == 50 * MiB
    assert growth.look(150 * MiB + GROWTH, 1.5, 0)


def test_what_came_and_stayed_is_the_programs_own() -> None:
    """A program that keeps what it receives, as objects of several times the size, is suspected of nothing."""
    growth = Growth()
    growth.look(100 * MiB, 1.0, 0)
    assert not growth.look(800 * MiB, 3.0, 100 * MiB)
    assert growth.bytes == 0
    assert growth.look(1100 * MiB, 4.0, 101 * MiB)
    assert growth.bytes == 292 * MiB


def test_message_without_end_that_hides_behind_others() -> None:
    """However much comes and leaves meanwhile, growth has an end; what goes with the connections was not kept."""
    growth = Growth()
    size = moved = 0
    work = 1.0
    growth.look(size, work, moved)
    while size < GROSS:
        size, work, moved = size + 40 * MiB, work + 0.1, moved + 5 * MiB
        over = growth.look(size, work, moved)
        assert over == (size > GROSS)
    assert growth.bytes == 0
    assert not growth.is_found(size, size - 200 * MiB)
    assert growth.is_found(size, size - 300 * MiB)
    assert (growth.gross, growth.gross_limit) == (0, GROSS)


def test_program_that_keeps_all_it_gets_is_asked_ever_less_often() -> None:
    """It has to grow to twice as much; the other limit stays as it is."""
    growth = Growth()
    growth.look(0, 1.0, 0)
    assert growth.look(1100 * MiB, 2.0, 1000 * MiB)
    assert not growth.is_found(1100 * MiB, 1090 * MiB)
    growth.not_found()
    assert growth.limit == GROWTH
    assert not growth.look(2100 * MiB, 3.0, 2000 * MiB)
    assert growth.look(2300 * MiB, 4.0, 3000 * MiB)


def test_found_or_not() -> None:
    """If closing connections frees it, all begins anew; if not, it has to grow to twice as much."""
    growth = Growth()
    growth.look(0, 1.0, 0)
    assert growth.look(300 * MiB, 2.0, 0)
    assert not growth.is_found(300 * MiB, 200 * MiB)
    growth.not_found()
    assert not growth.look(590 * MiB, 3.0, 0)
    assert growth.look(610 * MiB, 4.0, 0)
    assert growth.is_found(610 * MiB, 10 * MiB)
    assert (growth.bytes, growth.limit) == (0, GROWTH)


def test_what_is_measured() -> None:
    """The size of the process, and the time that threads have worked."""
    size = resident()
    assert size is not None
    assert 5 * MiB < size < 100_000 * MiB
    ours = threading.get_native_id()
    assert ours in threads()
    before = worked([ours])
    while worked([ours]) < before + 0.01:
        pass
    assert before <= worked([ours, 2**22 + os.getpid()]) < before + 1000

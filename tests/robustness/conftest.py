"""Campaigns of hostile input: small ones with the tests, long ones by `make hostile`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

TIMES = int(os.environ.get("HOSTILE_TIMES", "1"))  # as many tries of each campaign
SEED = int(os.environ.get("HOSTILE_SEED", "0"))
ODD = (None, True, -1, 0, 1e308, "", "x", "\x1b[2J", "a\nb", [], {}, [[[]]], {"a": 1}, "ü" * 300)
SPECIAL = (b"\0", b"\xff", b"\n", b"\x1b[2J", b"\xe2\x80\xae", b"-1", b"1e308", b"nan", b"{", b"]")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes that one to four things have happened to: flips, cuts, copies, zeros, odd words."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        start = rng.randrange(len(data))
        stop = min(len(data), start + rng.choice((1, 2, 8, 64, 1024)))
        match rng.randrange(6):
            case 0:
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                del data[start:]
            case 2:
                del data[start:stop]
            case 3:
                data[start:start] = data[start:stop]
            case 4:
                data[start:stop] = bytes(stop - start)
            case _:
                data[start:start] = rng.choice(SPECIAL)
    return bytes(data)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A JSON value in which one place has another type, is missing, or holds nonsense."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        if rng.random() < 0.2:
            return {name: entry for name, entry in value.items() if name != key}
        return {**value, key: mutated_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [*value[:index], mutated_value(value[index], rng), *value[index + 1 :]]
    odd = (
        None,
        True,
        -1,
        0,
        1e308,
        "",
        "x",
        "\x1b[2J",
        "a\nb",
        [],
        {},
        [[[]]],
        {"a": 1},
        "ü" * 300,
    )
    return rng.choice(odd)


def assert_one_line(status: int, err: str) -> None:
    """A failure that is told as it should be: a known status, one line, nothing of Python's."""
    assert status in (0, 2, 3), (status, err)
    assert "Traceback" not in err, err
    if status and err:  # a command that lacks all of its words answers with its help
        line = err.rstrip("\n").splitlines()[-1]
        assert line.startswith("error: "), err
        assert line.isprintable(), repr(line)


class Hostile:
    """What campaigns have in common."""

    mutated = staticmethod(mutated)
    mutated_value = staticmethod(mutated_value)
    assert_one_line = staticmethod(assert_one_line)

    @staticmethod
    def tries(count: int) -> Iterator[random.Random]:
        """Generators of random numbers, one per try: `for rng in hostile.tries(20)`."""
        for number in range(TIMES * count):
            yield random.Random(f"{SEED} {number}")


@pytest.fixture(scope="session")
def hostile() -> Hostile:
    """Tries, mutations, and what is asked of every answer."""
    return Hostile()

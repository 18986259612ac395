import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rtl_utils
from rtl_utils.randomness import STREAMS, generator

seeds = st.integers(0, 2**63 - 1)


@given(seed=seeds, epoch=st.integers(0, 10_000))
def test_same_name_same_draws_whatever_was_drawn_before(seed, epoch):
    first = generator(seed, "order", epoch).random(5)
    np.random.default_rng(0).random(100)
    generator(seed, "other", epoch).random(7)
    np.testing.assert_array_equal(generator(seed, "order", epoch).random(5), first)


def test_every_seed_stream_and_epoch_has_its_own_draws():
    draws = {
        tuple(generator(seed, stream, epoch).random(3))
        for seed in range(10)
        for stream in STREAMS
        for epoch in range(10)
    }
    assert len(draws) == 100 * len(STREAMS)


def test_epochs_do_not_overlap():
    first, second = (generator(0, "order", epoch).integers(0, 2**63, 10_000) for epoch in (0, 1))
    assert not set(first) & set(second)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 2**100])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=str(seed)):
        generator(seed, "order")


# --- the table of streams ---


def streams_in(tree):
    """Streams that the calls of `generator` name: a name, or (what it begins with, "...")."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "generator":
            given_name = {word.arg: word.value for word in call.keywords}.get("stream")
            name = call.args[1] if len(call.args) > 1 else given_name
            choices = (name.body, name.orelse) if isinstance(name, ast.IfExp) else (name,)
            for choice in choices:
                if isinstance(choice, ast.JoinedStr):
                    yield choice.values[0].value, "..."
                else:
                    yield ast.literal_eval(choice)


def streams_of_the_package():
    """Module and stream of every call of `generator` in the package's sources."""
    package = Path(rtl_utils.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for stream in streams_in(ast.parse(path.read_text(encoding="utf-8"))):
            yield path.relative_to(package).as_posix(), stream


USED = sorted(set(streams_of_the_package()), key=str)


def names_of(stream):
    """Streams of the table that a name, or what a text begins with, stands for."""
    if isinstance(stream, tuple):
        return {name for name in STREAMS if name.startswith(stream[0]) and name != stream[0]}
    return {stream} & set(STREAMS)


@pytest.mark.parametrize(("module", "stream"), USED, ids=str)
def test_stream_that_the_package_uses_stands_in_the_table(module, stream):
    assert names_of(stream)


def test_every_stream_of_the_table_is_used_somewhere():
    assert set().union(*(names_of(stream) for _, stream in USED)) == set(STREAMS)


def test_streams_are_found_in_every_kind_of_call():
    code = (
        "generator(0, 'a', 1); generator(0, f'b-{x}'); generator(seed=0, stream='c')\n"
        "generator(0, 'd' if x else f'e-{x}'); other(0, 'f')"
    )
    assert set(streams_in(ast.parse(code))) == {"a", ("b-", "..."), "c", "d", ("e-", "...")}


def test_modules_that_draw_are_the_ones_that_are_scanned():
    assert {"paths.py", "methods.py", "probing.py", "training/loop.py"} <= {m for m, _ in USED}


def test_every_stream_says_what_it_draws():
    assert all(len(text.split()) > 2 for text in STREAMS.values())

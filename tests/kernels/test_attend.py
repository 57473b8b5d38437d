"""Attention over tiles in every form, against plain attention in float64."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.side import FIT_LS, FIT_MINMAX, META_F16, META_Q8

from .budgets import ATTENTION, REQUIRED, assert_near, nmse
from .case import Case, Shape, build
from .lib import implementations
from .shapes import FEATURES, deal, label

BITS = (1, 2, 3, 4)
WIDTHS = [{"k_bits": k, "v_bits": v} for k in BITS for v in BITS]
METAS = [{"k_meta": k, "v_meta": v} for k in (META_F16, META_Q8) for v in (META_F16, META_Q8)]
FOLLOW = [{"follow": True}, {"follow": True, "fit": FIT_LS}]


@pytest.mark.parametrize("shape", deal(96, WIDTHS, METAS, [*FEATURES, *FOLLOW]), ids=label)
def test_random_shapes(impl: str, shape: Shape) -> None:
    case = build(shape)
    got = case.run(impl, whole_rows=shape.seed % 2 == 1, n_threads=1 + shape.seed % 3)
    assert_near(got, case.want, ATTENTION)


@pytest.mark.parametrize("tokens", (2, 40))
@pytest.mark.parametrize("v_bits", (1, 2, 3, 4))
@pytest.mark.parametrize("k_bits", (1, 2, 3, 4))
def test_every_pair_of_widths(impl: str, k_bits: int, v_bits: int, tokens: int) -> None:
    """Few queries read codes as they are, many an unpacked copy."""
    shape = Shape(k_bits=k_bits, v_bits=v_bits, tokens=tokens, layout="sealed", n_kv=128, group=3)
    assert_near(build(shape).run(impl), build(shape).want, ATTENTION)


@pytest.mark.parametrize("d", ((32, 32), (40, 40), (72, 104), (80, 48), (256, 32)))
@pytest.mark.parametrize("tokens", (1, 30))
def test_head_dims_off_the_grid(impl: str, d: tuple[int, int], tokens: int) -> None:
    """The last value strip is short, or the last key word half empty."""
    for bits in (1, 2, 3, 4):
        shape = Shape(dk=d[0], dv=d[1], k_bits=bits, v_bits=bits, tokens=tokens, n_kv=100)
        assert_near(build(shape).run(impl), build(shape).want, ATTENTION)


WIDE = ((264, 40), (320, 384), (384, 264), (512, 512), (520, 64), (536, 40), (544, 64), (576, 512))


@pytest.mark.parametrize("d", WIDE)
@pytest.mark.parametrize("tokens", (1, 5, 30))
def test_keys_of_several_strips(impl: str, d: tuple[int, int], tokens: int) -> None:
    """Scores are the sum over strips, of few queries and of many, of owners and of followers."""
    for bits in (1, 2, 3, 4):
        form = {"k_bits": bits, "v_bits": bits, "k_meta": bits % 2, "follow": bits > 2}
        shape = Shape(dk=d[0], dv=d[1], tokens=tokens, n_kv=100, group=3, **form)
        assert_near(build(shape).run(impl), build(shape).want, ATTENTION)


@pytest.mark.parametrize("group", (1, 4))
@pytest.mark.parametrize("tokens", (1, 2, 3, 12, 33))
def test_window_boundary_inside_a_batch(impl: str, tokens: int, group: int) -> None:
    """Queries before ``from`` read the page, those from it on the codes.

    One bit makes the two forms so different that a query in the wrong one shows.
    """
    shape = Shape(k_bits=1, v_bits=1, tokens=tokens, group=group, layout="boundary", n_kv=96)
    case = Case(shape)
    wanted = []
    for shift in (-1, 0, 1):
        for t in range(shape.n_tiles):
            case.table.since[0, t] = case.table.pos[t * (tokens - 1) // 3] + shift
        case.recompute()
        assert_near(case.run(impl), case.want, ATTENTION)
        wanted.append(case.want)
    assert nmse(wanted[0], wanted[2]) > REQUIRED, "this test would not see an error of one"
    assert nmse(wanted[1], wanted[2]) > REQUIRED, "this test would not see an error of one"


@pytest.mark.parametrize("lengths", ((12, 12, 12, 12), (12, 3, 12, 3, 12), (2, 2, 2), (40, 40, 1)))
@pytest.mark.parametrize("first", (0, 1))
def test_positions_in_any_order(impl: str, first: int, lengths: tuple[int, ...]) -> None:
    """A batch of several sequences: runs of queries read a tile's page and codes in turns."""
    shape = Shape(k_bits=1, v_bits=1, tokens=sum(lengths), layout="boundary", n_kv=96)
    case = Case(shape)
    odd = np.repeat(np.arange(len(lengths)) % 2 == first, lengths)
    case.table.pos[odd] += 1000
    case.table.since[...] = 500
    case.recompute()
    assert_near(case.run(impl), case.want, ATTENTION)


@pytest.mark.parametrize("tokens", (1, 9, 70))
@pytest.mark.parametrize("n_kv", (290, 800))
def test_parts_and_threads_change_no_bit(impl: str, tokens: int, n_kv: int) -> None:
    """Chunks are folded in the same order by one thread (prefill) and by the combine step."""
    case = build(Shape(tokens=tokens, n_kv=n_kv, heads=2, group=2, sinks=True, blind=tokens > 1))
    one = case.run(impl)
    assert_near(one, case.want, ATTENTION)
    for whole_rows in (False, True):
        for n_threads in (1, 2, 4):
            assert (case.run(impl, whole_rows=whole_rows, n_threads=n_threads) == one).all()


@pytest.mark.parametrize("whole_rows", (False, True))
@pytest.mark.parametrize("sinks", (False, True))
def test_queries_that_see_nothing(impl: str, sinks: bool, whole_rows: bool) -> None:
    for tokens in (1, 20):
        case = build(Shape(tokens=tokens, blind=True, sinks=sinks, layout="mixed"))
        blind = np.isneginf(case.mask[0]).all(axis=1)
        assert blind.any()
        got = case.run(impl, whole_rows=whole_rows)
        assert (got[blind] == 0).all()
        assert_near(got, case.want, ATTENTION)


def test_nothing_in_the_cache(impl: str) -> None:
    """All tiles empty: no page, no codes, zeros out."""
    case = Case(Shape())
    case.table.page[...] = -1
    case.table.since[...] = 0x7FFFFFFF
    for whole_rows in (False, True):
        assert (case.run(impl, whole_rows=whole_rows) == 0).all()


@pytest.mark.parametrize("data", ("offset", "constant", "equal", "huge", "tiny"))
@pytest.mark.parametrize("tokens", (1, 24))
@pytest.mark.parametrize("m", (META_F16, META_Q8))
def test_hard_data(impl: str, m: int, tokens: int, data: str) -> None:
    for bits in (1, 2, 3, 4):
        shape = Shape(
            k_bits=bits, v_bits=bits, k_meta=m, v_meta=m, tokens=tokens, data=data, group=2
        )
        assert_near(build(shape).run(impl), build(shape).want, ATTENTION)


@pytest.mark.parametrize("tokens", (1, 3))
@pytest.mark.parametrize("d", (64, 128))
@pytest.mark.parametrize("bits", (1, 2, 3, 4))
def test_outlier_channels(impl: str, bits: int, d: int, tokens: int) -> None:
    """Keys with a channel a thousand times the others, which makes logits of thousands.

    What matters is the absolute error of a logit; how much of it a seed shows differs.
    """
    for seed in range(6):
        shape = Shape(
            dk=d,
            k_bits=bits,
            v_bits=bits,
            tokens=tokens,
            data="outlier",
            layout="sealed",
            seed=seed,
        )
        assert_near(build(shape).run(impl), build(shape).want, REQUIRED)


@pytest.mark.parametrize("fit", (FIT_MINMAX, FIT_LS))
@pytest.mark.parametrize("tokens", (1, 24))
def test_followers(impl: str, tokens: int, fit: int) -> None:
    """Metadata of its own over a leader's codes; a fitted scale may be negative."""
    for bits in (1, 2, 3, 4):
        shape = Shape(k_bits=bits, v_bits=bits, tokens=tokens, follow=True, fit=fit)
        assert_near(build(shape).run(impl), build(shape).want, ATTENTION)


@pytest.mark.parametrize("shape", deal(24, WIDTHS, METAS, FEATURES), ids=label)
def test_vnni_gives_the_bits_of_avx2(shape: Shape) -> None:
    """Sums of integers are exact, however they were added up."""
    if "avx-vnni" not in implementations():
        pytest.skip("this machine or build has no avx-vnni kernels")
    case = build(shape)
    assert (case.run("avx-vnni") == case.run("avx2")).all()


def test_unknown_implementations_are_refused() -> None:
    with pytest.raises(AssertionError, match="no implementation"):
        build(Shape()).run("abacus")

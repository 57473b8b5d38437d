"""Attention over ranked keys and rotated, unbiased values, against plain attention in float64."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.side import META_F16, META_Q8

from .budgets import ATTENTION, ATTENTION_SHARP, REQUIRED, assert_near, nmse
from .case import Case, Shape, build
from .shapes import FEATURES, deal, label
from .test_attend import WIDE

BITS = (1.0, 1.7, 2.3, 3.0, 4.5, 6.0, 8.0)
RANKED = [{"k_ranked": bits} for bits in BITS]
ROTATED = {"v_unbiased": True, "v_rotate": True}
UNBIASED = [{"v_bits": bits, **ROTATED} for bits in (1, 2, 3, 4)]
PARTLY = [
    {"k_ranked": 1.7, "v_bits": 3, "v_meta": META_F16},
    {"k_ranked": 4.5, "v_bits": 2, "v_meta": META_Q8, "v_rotate": True},
    {"k_ranked": 2.3, "v_bits": 1, "v_unbiased": True},
    *({"k_bits": 2, **values} for values in UNBIASED),
    {"k_bits": 3, "v_bits": 2, "v_rotate": True, "follow": True},
]
BOTH = {"k_ranked": 2.3, "v_bits": 2, **ROTATED}
CRUDE = {"k_ranked": 1.0, "v_bits": 1, **ROTATED}
LADDER = [
    {"k_ranked": k, "v_bits": v, **ROTATED} for k, v in ((1.3, 1), (2.3, 2), (4.5, 3), (8.0, 4))
]
DATA = [{"data": kind} for kind in ("normal", "spread", "constant")]


@pytest.mark.parametrize("shape", deal(84, RANKED, UNBIASED, DATA, FEATURES), ids=label)
def test_random_layers(impl: str, shape: Shape) -> None:
    case = build(shape)
    got = case.run(impl, whole_rows=shape.seed % 2 == 1, n_threads=1 + shape.seed % 3)
    assert_near(got, case.want, ATTENTION_SHARP if shape.data == "spread" else ATTENTION)


@pytest.mark.parametrize("shape", deal(16, PARTLY, FEATURES), ids=label)
def test_one_without_the_other(impl: str, shape: Shape) -> None:
    case = build(shape)
    assert_near(case.run(impl), case.want, ATTENTION)


@pytest.mark.parametrize("d", ((32, 32), (40, 40), (72, 104), (80, 48), (256, 32), (96, 72)))
@pytest.mark.parametrize("tokens", (1, 30))
def test_head_dims_off_the_grid(impl: str, d: tuple[int, int], tokens: int) -> None:
    """The last value strip is short or alone with its scale; rotation blocks are of 8 to 64."""
    for form in LADDER:
        shape = Shape(dk=d[0], dv=d[1], tokens=tokens, n_kv=100, **form)
        assert_near(build(shape).run(impl), build(shape).want, ATTENTION)


@pytest.mark.parametrize("d", WIDE)
@pytest.mark.parametrize("tokens", (1, 5, 30))
def test_keys_of_two_strips(impl: str, d: tuple[int, int], tokens: int) -> None:
    """Every strip has classes and grids of its own."""
    for form in LADDER:
        shape = Shape(dk=d[0], dv=d[1], tokens=tokens, n_kv=100, group=3, **form)
        assert_near(build(shape).run(impl), build(shape).want, ATTENTION)


@pytest.mark.parametrize("strip", (0, 1))
@pytest.mark.parametrize("k_ranked", (0.0, 2.3, 6.0))
def test_one_strip_too_coarse(impl: str, k_ranked: float, strip: int) -> None:
    """A channel that needs f32 in one strip: the row's whole score is made so, and only once."""
    case = Case(Shape(dk=264, tokens=3, group=2, layout="sealed", k_ranked=k_ranked, k_bits=4))
    case.q[..., 5 + strip * case.shape.k.rows] = 3000
    case.recompute()
    assert_near(case.run(impl), case.want, REQUIRED)


@pytest.mark.parametrize("group", (1, 4))
@pytest.mark.parametrize("tokens", (1, 3, 33))
def test_window_boundary_inside_a_batch(impl: str, tokens: int, group: int) -> None:
    """Queries before ``from`` read the page, the others codes; both hold rotated values."""
    shape = Shape(tokens=tokens, group=group, layout="boundary", n_kv=96, **CRUDE)
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


@pytest.mark.parametrize("lengths", ((12, 12, 12, 12), (2, 2, 2), (40, 40, 1)))
def test_positions_in_any_order(impl: str, lengths: tuple[int, ...]) -> None:
    """A batch of several sequences: runs of queries read a tile's page and codes in turns."""
    case = Case(Shape(tokens=sum(lengths), layout="boundary", n_kv=96, **CRUDE))
    case.table.pos[np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)] += 1000
    case.table.since[...] = 500
    case.recompute()
    assert_near(case.run(impl), case.want, ATTENTION)


@pytest.mark.parametrize("tokens", (1, 9, 70))
@pytest.mark.parametrize("n_kv", (290, 800))
def test_parts_and_threads_change_no_bit(impl: str, tokens: int, n_kv: int) -> None:
    """Outputs are rotated back once, after all chunks are folded, whoever folds them."""
    form = {**BOTH, "sinks": True, "blind": tokens > 1}
    case = build(Shape(tokens=tokens, n_kv=n_kv, heads=2, group=2, **form))
    one = case.run(impl)
    assert_near(one, case.want, ATTENTION)
    for whole_rows in (False, True):
        for n_threads in (1, 2, 4):
            assert (case.run(impl, whole_rows=whole_rows, n_threads=n_threads) == one).all()


@pytest.mark.parametrize("whole_rows", (False, True))
def test_queries_that_see_nothing(impl: str, whole_rows: bool) -> None:
    for tokens in (1, 20):
        case = build(Shape(tokens=tokens, blind=True, sinks=True, **BOTH))
        blind = np.isneginf(case.mask[0]).all(axis=1)
        assert blind.any()
        got = case.run(impl, whole_rows=whole_rows)
        assert (got[blind] == 0).all()
        assert_near(got, case.want, ATTENTION)


def test_nothing_in_the_cache(impl: str) -> None:
    """All tiles empty: no page, no codes, zeros out."""
    case = Case(Shape(**BOTH))
    case.table.page[...] = -1
    case.table.since[...] = 0x7FFFFFFF
    for whole_rows in (False, True):
        assert (case.run(impl, whole_rows=whole_rows) == 0).all()


@pytest.mark.parametrize("data", ("offset", "constant", "equal", "huge", "tiny", "spread"))
@pytest.mark.parametrize("tokens", (1, 24))
def test_hard_data(impl: str, tokens: int, data: str) -> None:
    for form in LADDER:
        shape = Shape(tokens=tokens, data=data, group=2, **form)
        budget = ATTENTION_SHARP if data == "spread" else ATTENTION
        assert_near(build(shape).run(impl), build(shape).want, budget)


@pytest.mark.parametrize("tokens", (1, 3))
@pytest.mark.parametrize("d", (64, 128))
@pytest.mark.parametrize("k_ranked", (1.3, 2.3, 4.5, 8.0))
def test_outlier_channels(impl: str, k_ranked: float, d: int, tokens: int) -> None:
    """Keys with a channel a thousand times the others, which makes logits of thousands."""
    for seed in range(6):
        form = {**BOTH, "k_ranked": k_ranked, "data": "outlier", "layout": "sealed"}
        shape = Shape(dk=d, tokens=tokens, seed=seed, **form)
        assert_near(build(shape).run(impl), build(shape).want, REQUIRED)

"""What must not matter: the order of threads, how many chunks a block takes."""

from __future__ import annotations

import pytest
from kernels import lib
from kernels.budgets import ATTENTION, assert_near
from kernels.case import Shape, build
from kernels.test_seal_layer import sealing

FORM = {"k_ranked": 2.3, "v_bits": 2, "v_unbiased": True, "v_rotate": True}
SHAPES = [
    Shape(tokens=2, group=3, n_kv=290, dk=96, dv=96, **FORM),
    Shape(tokens=3, group=2, n_kv=100, k_bits=3, v_bits=3, layout="mixed"),
    Shape(tokens=1, group=8, n_kv=290, dk=128, dv=128, sinks=True, **FORM),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.dk}-g{s.group}")
def test_any_order_gives_the_same_bits(impl: str, shape: Shape) -> None:
    case = build(shape)
    one = case.run(impl)
    for seed in range(2, 8):
        lib.others[impl].xq_emulated_seed(seed)
        assert (case.run(impl) == one).all()


def test_sealing_in_any_order(impl: str) -> None:
    results = set()
    for seed in range(1, 6):
        case, _ = sealing(Shape(dk=80, dv=80, layout="pages", n_kv=96, data="spread", **FORM))
        lib.others[impl].xq_emulated_seed(seed)
        lib.call("xq_api_seal_layer", impl, case.layer(case.table.ints()))
        results.add(case.bytes())
    assert len(results) == 1


@pytest.mark.parametrize("span", (1, 2, 3, 7))
def test_spans(impl: str, span: int) -> None:
    """Blocks of several chunks: their own softmax goes on from chunk to chunk."""
    case = build(Shape(tokens=2, group=2, n_kv=1100, sinks=True, **FORM))
    lib.others[impl].xq_emulated_span(span)
    try:
        assert_near(case.run(impl), case.want, ATTENTION)
    finally:
        lib.others[impl].xq_emulated_span(0)

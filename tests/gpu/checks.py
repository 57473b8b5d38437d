"""A short list of kernel tests that has every feature in it: for runs that must be few."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kernels import lib, test_rotate, test_seal_layer
from kernels import test_attend as attend
from kernels import test_attend_ranked as ranked_attend
from kernels import test_not_finite as not_finite
from kernels import test_ranked as ranked
from kernels import test_seal as seal
from kernels import test_unbiased as unbiased
from kernels.case import Shape
from oracle.side import FIT_LS, META_F16, META_Q8

from . import test_batch as batch
from . import test_edges as edges
from . import test_pages as pages
from . import test_threads as threads

Check = Callable[[str], None]
ROTATED = {"v_unbiased": True, "v_rotate": True}
MANY = {"tokens": 24, "group": 3, "streams": 2, "max_bias": 8.0, "follow": True, "holes": True}


def attention() -> list[Check]:
    shapes = [
        Shape(dk=80, dv=96, tokens=3, group=2, k_bits=3, v_bits=3, k_meta=META_F16, holes=True),
        Shape(dk=128, dv=64, tokens=2, group=3, streams=2, first_stream=1, v_bits=1, softcap=5.0),
        Shape(dk=64, dv=128, group=3, k_bits=4, v_bits=4, max_bias=8.0, n_kv=95, sinks=True),
        Shape(dk=72, dv=40, tokens=2, k_bits=1, v_bits=2, follow=True, fit=FIT_LS, sinks=True),
        Shape(dk=264, dv=320, tokens=1, group=2, k_bits=2, v_bits=4),
    ]
    spoilt, nan = not_finite.PAGES[:2], float("nan")
    layers = [
        Shape(dk=256, dv=256, tokens=1, group=8, n_kv=230, k_ranked=1.7, v_bits=2, **ROTATED),
        Shape(dk=96, dv=80, tokens=2, group=3, k_ranked=4.5, v_bits=3, data="spread", **ROTATED),
        Shape(dk=64, dv=64, tokens=5, group=4, n_kv=161, k_ranked=6.0, v_bits=1, **ROTATED),
        Shape(dk=512, dv=512, tokens=2, group=2, n_kv=95, k_ranked=2.0, v_bits=2, **ROTATED),
        Shape(dk=576, dv=512, tokens=2, group=8, n_kv=95, k_ranked=2.0, v_bits=2, **ROTATED),
    ]
    return [
        *(partial(attend.test_random_shapes, shape=s) for s in shapes),
        *(partial(ranked_attend.test_random_layers, shape=s) for s in layers),
        partial(attend.test_positions_in_any_order, first=0, lengths=(2, 2, 2)),
        partial(attend.test_parts_and_threads_change_no_bit, tokens=1, n_kv=290),
        partial(attend.test_queries_that_see_nothing, sinks=True, whole_rows=False),
        partial(attend.test_nothing_in_the_cache),
        partial(threads.test_spans, span=3),
        partial(edges.test_negative_scales, bits=2),
        partial(edges.test_hidden_cells_may_hold_anything),
        partial(edges.test_channels_too_large_for_integers, k_ranked=0.0, seed=0),
        partial(attend.test_hard_data, m=META_Q8, tokens=1, data="huge"),
        *(partial(not_finite.test_cells_of_pages, shape=s, x=nan, what="both") for s in spoilt),
        partial(not_finite.test_nothing_but_nans),
    ]


def batched(check: Check, impl: str) -> None:
    """A check of attention on the batch body."""
    with batch.batch(impl, lib.others[impl]) as name:
        check(name)


def attention_of_many() -> list[Check]:
    """Of the batch body; the shapes of the other one have every form of codes."""
    own = [
        *(partial(batch.test_many_rows, d=d) for d in (72, 256)),
        partial(batch.test_logits_that_grow, softcap=0.0),
        partial(attend.test_random_shapes, shape=Shape(**MANY, softcap=5.0)),
    ]
    shared = (attend.test_hard_data, attend.test_parts_and_threads_change_no_bit)
    others = [check for check in attention() if check.func not in (*shared, threads.test_spans)]  # type: ignore[attr-defined]
    return [partial(batched, check) for check in own + others]


def packing() -> list[Check]:
    layer = test_seal_layer
    tiles = [(layer.SHAPES[1], True), (layer.SHAPES[6], False), (layer.RANKED_SHAPES[1], False)]
    tiles += [(layer.RANKED_SHAPES[i], False) for i in (3, -1)]
    return [
        *(partial(layer.test_tiles, shape=s, follow=f, holes=True, threads=1) for s, f in tiles),
        *(partial(seal.test_whole_strips, bits=3, m=m, kind="normal") for m in (META_F16, META_Q8)),
        partial(seal.test_lanes_and_rows_without_data, bits=2, m=META_Q8, mask=0x5A5A1234),
        partial(seal.test_followers_least_squares, bits=2, m=META_F16, mask=0x00FFFFFF),
        partial(seal.test_values_half_way_between_levels, bits=2),
        *(partial(ranked.test_whole_strips, rows=72, kind=k) for k in ("spread", "constant")),
        partial(ranked.test_lanes_without_data, bits=2.3, mask=0),
        partial(ranked.test_ties, bits=2.3),
        partial(ranked.test_sums_that_cancel),
        *(partial(edges.test_zeros_of_either_sign, x=x) for x in (0.0, -0.0)),
        *(partial(edges.test_long_lists, shape=s) for s in edges.LISTS),
        partial(ranked.test_unpack, rows=72, bits=4.5),
        partial(unbiased.test_whole_strips, bits=3, n=2, kind="normal"),
        partial(unbiased.test_rows_without_data, bits=2, n=1),
        partial(not_finite.test_strips, bits=3, m=META_Q8, kind="some"),
        partial(not_finite.test_ranked_strips, bits=4.5, kind="some"),
        partial(not_finite.test_unbiased_strips, bits=2, n=2, kind="some"),
        partial(unbiased.test_scales_half_way_on_the_grid),
        partial(unbiased.test_unpack, bits=3),
        partial(test_rotate.test_against_the_matrix, block=64, blocks=3),
        partial(test_rotate.test_against_the_matrix, block=16, blocks=3),
        *(partial(pages.test_store, shape=s) for s in pages.SHAPES[:2]),
    ]

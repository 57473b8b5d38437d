// Fold the partial results of one query row, divide by the sum of weights, rotate back. Grid: x = token and head.
#pragma once

#include "kernels/gpu/args.h"
#include "kernels/gpu/rotate.h"


XQ_BODY void xqg_combine(xqg_place at, XQ_CONST const xqg_combine_args & a, XQ_GLOBAL const float * in, XQ_GLOBAL const float * sinks,
                         XQ_GLOBAL float * out) {
    const xqg_size plane = (xqg_size) a.n_tokens*a.n_head*(a.dv + 2);
    for (int d0 = at.warp*2*XQ_LANES; d0 < a.dv; d0 += at.warps*2*XQ_LANES) {
        const int d = d0 + at.lane;
        const bool lower = d < a.dv, upper = d + XQ_LANES < a.dv;
        XQ_GLOBAL const float * part = in + (xqg_size) at.x*(a.dv + 2);
        xqg_two o = {0.0f, 0.0f};
        float top = XQG_HIDDEN, sum = 0.0f;
        for (int i = 0; i < a.n_parts; ++i, part += plane) {
            const float other = part[a.dv], next = xqg_fmax(top, other);
            const float keep = xqg_exp_from(top, next), add = xqg_exp_from(other, next);
            o.lower = xqg_fma(lower ? part[d] : 0.0f, add, o.lower*keep);
            o.upper = xqg_fma(upper ? part[d + XQ_LANES] : 0.0f, add, o.upper*keep);
            sum = xqg_fma(part[a.dv + 1], add, sum*keep);
            top = next;
        }
        // a sink is one more weight without a value; a row that sees nothing is zero
        const float sink  = a.has_sinks ? sinks[at.x % a.n_head] : XQG_HIDDEN;
        const float next  = xqg_fmax(top, sink), keep = xqg_exp_from(top, next);
        const float total = sum*keep + xqg_exp_from(sink, next);
        const float f = total == 0.0f ? 0.0f : keep/total; // NaN if the row sees one
        o.lower *= f;
        o.upper *= f;
        if (a.rot) {
            o = xqg_rotate(o, a.rot, at.lane);
        }
        if (lower) {
            out[(xqg_size) at.x*a.dv + d] = o.lower;
        }
        if (upper) {
            out[(xqg_size) at.x*a.dv + d + XQ_LANES] = o.upper;
        }
    }
}

layout(push_constant) uniform xq_push {
    uint64_t parts, sinks, result;
    int dv, rot, n_head, n_tokens, n_parts, has_sinks;
} push;

void main() {
    const xqg_combine_args a = xqg_combine_args(push.dv, push.rot, push.n_head, push.n_tokens, push.n_parts, push.has_sinks);
    XQ_ENTRY(xq_here(), a, push.parts, push.sinks, push.result);
}

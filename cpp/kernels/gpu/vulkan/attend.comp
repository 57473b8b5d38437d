// The pipeline of attention: what is one for all calls of a layer are its constants, the rest is pushed.
layout(constant_id = 32) const int N_HEAD = 1;
layout(constant_id = 33) const float SCALE = 1;
layout(constant_id = 34) const float SOFTCAP = 0;
layout(constant_id = 35) const float MAX_BIAS = 0;

layout(push_constant) uniform xq_push {
    xqg_planes planes;
    uint64_t q, mask, table, result;
    int q_token, q_head, mask_token, mask_stream;
    int n_tokens, n_stream, n_kv, first_token, first_stream, table_tokens, span, n_parts;
} push;

void main() {
    const xqg_attend_args a = xqg_attend_args(
        xq_layer(), push.q_token, push.q_head, push.mask_token, push.mask_stream, N_HEAD, push.n_tokens, push.n_stream, push.n_kv,
        push.first_token, push.first_stream, push.table_tokens, SCALE, SOFTCAP, MAX_BIAS, push.span, push.n_parts);
    XQ_ENTRY(xq_here(), a, push.planes, push.q, push.mask, push.table, push.result, 0);
}

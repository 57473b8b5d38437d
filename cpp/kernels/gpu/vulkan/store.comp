layout(push_constant) uniform xq_push {
    xqg_planes planes;
    uint64_t k, v, rows;
    int k_head, k_token, v_head, v_token, n_tokens;
} push;

void main() {
    const xqg_store_args a = xqg_store_args(xq_layer(), push.k_head, push.k_token, push.v_head, push.v_token, push.n_tokens);
    XQ_ENTRY(xq_here(), a, push.planes, push.k, push.v, push.rows);
}

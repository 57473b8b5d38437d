layout(push_constant) uniform xq_push {
    xqg_strip_args a;
    uint64_t x, codes, meta;
} push;

void main() {
    XQ_ENTRY(xq_here(), push.a, push.x, push.codes, push.meta, 0);
}

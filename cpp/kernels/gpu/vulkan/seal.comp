layout(push_constant) uniform xq_push {
    xqg_planes planes;
    uint64_t table;
    int walkers;
} push;

void main() {
    XQ_ENTRY(xq_here(), xq_layer(), push.planes, push.table, push.walkers, 0);
}

// A layer is part of its pipelines: a driver unrolls loops over planes and drops what the layer has not. The host fills
// the constants in the order of their numbers (pipelines.cpp).
layout(constant_id = 1)  const int K_BITS = 0;
layout(constant_id = 2)  const int K_META = 0;
layout(constant_id = 3)  const int K_ROWS = 0;
layout(constant_id = 4)  const int K_STRIPS = 0;
layout(constant_id = 5)  const int K_LANES_LAST = 0;
layout(constant_id = 6)  const int K_FIT = 0;
layout(constant_id = 7)  const int K_WORDS = 0;
layout(constant_id = 8)  const int K_ROT = 0;
layout(constant_id = 9)  const float K_ETA = 0;
layout(constant_id = 10) const float K_ETA2 = 0;
layout(constant_id = 11) const int V_BITS = 0;
layout(constant_id = 12) const int V_META = 0;
layout(constant_id = 13) const int V_ROWS = 0;
layout(constant_id = 14) const int V_STRIPS = 0;
layout(constant_id = 15) const int V_LANES_LAST = 0;
layout(constant_id = 16) const int V_FIT = 0;
layout(constant_id = 17) const int V_WORDS = 0;
layout(constant_id = 18) const int V_ROT = 0;
layout(constant_id = 19) const float V_ETA = 0;
layout(constant_id = 20) const float V_ETA2 = 0;
layout(constant_id = 21) const int DK = 0;
layout(constant_id = 22) const int DV = 0;
layout(constant_id = 23) const int N_HEAD_KV = 0;
layout(constant_id = 24) const int K_LEADS = 0;
layout(constant_id = 25) const int V_LEADS = 0;
layout(constant_id = 26) const int K_CODE_STREAM = 0;
layout(constant_id = 27) const int V_CODE_STREAM = 0;
layout(constant_id = 28) const int META_STREAM = 0;
layout(constant_id = 29) const int PAGE_STREAM = 0;
layout(constant_id = 30) const int K_ROW = 0;
layout(constant_id = 31) const int V_ROW = 0;

xqg_layer xq_layer() {
    return xqg_layer(
        xq_side(K_BITS, K_META, K_ROWS, K_STRIPS, K_LANES_LAST, K_FIT, K_WORDS, K_ROT, K_ETA, K_ETA2),
        xq_side(V_BITS, V_META, V_ROWS, V_STRIPS, V_LANES_LAST, V_FIT, V_WORDS, V_ROT, V_ETA, V_ETA2),
        int64_t(K_CODE_STREAM), int64_t(V_CODE_STREAM), int64_t(META_STREAM), int64_t(PAGE_STREAM),
        int64_t(K_ROW), int64_t(V_ROW), DK, DV, N_HEAD_KV, K_LEADS, V_LEADS);
}

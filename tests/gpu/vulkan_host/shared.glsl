// Around a shader's main, which has become xq_main: shared memory holds NaNs at first, and what lies behind the part that the
// host reckons with is not touched.
void main() {
    for (int i = int(gl_LocalInvocationIndex); i < XQ_WORDS; i += 32) {
        xq_memory[i] = 0xFFFFFFFFu;
    }
    barrier();
    xq_main();
    barrier();
    for (int i = XQ_USED + int(gl_LocalInvocationIndex); i < XQ_WORDS; i += 32) {
        if (xq_memory[i] != 0xFFFFFFFFu) {
            XQ_OVERRUN = 1;
        }
    }
}

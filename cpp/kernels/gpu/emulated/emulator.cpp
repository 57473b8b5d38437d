#include "kernels/gpu/emulated/emulator.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace xq_emulator {

namespace {

constexpr size_t STACK = 256*1024;
constexpr int    MOST  = 1024;

// All warps side by side; or one as far as it gets, while others have not begun; or any mixture.
enum { OLDEST, NEWEST, ANY, ORDERS };

enum class state { ready, at_warp, at_barrier, done };

struct fiber {
    ucontext_t context;
    jmp_buf    jump;
    bool       started = false;
    std::unique_ptr<char[]> stack;
    state at = state::done;
    int   line = 0;
};

// Where a warp's lanes meet. Two sets of words, because a lane may bring the next while others still read the last.
struct meeting {
    uint32_t word[2][WARP];
    int arrived = 0, turn = 0;
};

struct machine {
    std::vector<fiber> fibers = std::vector<fiber>(MOST);
    std::vector<meeting> warps = std::vector<meeting>(MOST/WARP);
    std::vector<int> queue; // threads that may run, from head on
    size_t head = 0;
    int order = 0;          // of taking them, another for every block
    int current = -1, n = 0, done = 0, in_barrier = 0;
    int at[3] = {0, 0, 0};
    ucontext_t main_context;
    jmp_buf    main_jump;
    void (*body)(void *) = nullptr;
    void * body_context = nullptr;
    char * memory = nullptr;
    uint32_t random = 1;
    std::string error;
};

machine & m() {
    static machine one;
    return one;
}

uint32_t draw() {
    uint32_t & r = m().random;
    r ^= r << 13; r ^= r >> 17; r ^= r << 5;
    return r;
}

void run_fiber();

// swapcontext asks the kernel for the signal mask each time; setjmp does not. Only the first entry needs a context.
// AddressSanitizer must be told of every change of stack, which it is where contexts are swapped.
#if defined(__SANITIZE_ADDRESS__)
const void * main_stack;
size_t main_size;

void arrived(void * fake) {
    const void * stack;
    size_t size;
    __sanitizer_finish_switch_fiber(fake, &stack, &size);
    if (!main_stack) { // the first change of all comes from there
        main_stack = stack;
        main_size = size;
    }
}

void change(fiber * from, fiber * to) {
    void * fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to ? to->stack.get() : main_stack, to ? STACK : main_size);
    swapcontext(from ? &from->context : &m().main_context, to ? &to->context : &m().main_context);
    arrived(fake);
}
#else
void change(fiber * from, fiber * to) {
    if (_setjmp(from ? from->jump : m().main_jump) != 0) {
        return;
    }
    if (to && !to->started) {
        to->started = true;
        setcontext(&to->context);
    }
    _longjmp(to ? to->jump : m().main_jump, 1);
}
#endif

fiber * next() {
    machine & s = m();
    if (s.head == s.queue.size()) {
        s.current = -1;
        return nullptr; // all are done, or nobody can go on
    }
    if (s.order == OLDEST) {
        s.current = s.queue[s.head++];
    } else {
        if (s.order == ANY) {
            std::swap(s.queue[s.head + draw() % (s.queue.size() - s.head)], s.queue.back());
        }
        s.current = s.queue.back();
        s.queue.pop_back();
    }
    return &s.fibers[s.current];
}

void pause() {
    fiber * from = &m().fibers[m().current];
    fiber * to = next();
    if (to != from) {
        change(from, to);
    }
}

void run_fiber() {
#if defined(__SANITIZE_ADDRESS__)
    arrived(nullptr);
#endif
    for (;;) {
        m().body(m().body_context);
        m().fibers[m().current].at = state::done;
        ++m().done;
        pause();
    }
}

void enqueue(int first, int n) {
    machine & s = m();
    if (s.head == s.queue.size()) {
        s.queue.clear();
        s.head = 0;
    }
    const size_t start = s.queue.size();
    for (int i = 0; i < n; ++i) {
        s.queue.push_back(first + i);
        s.fibers[first + i].at = state::ready;
    }
    for (int i = n - 1; i > 0; --i) {
        std::swap(s.queue[start + i], s.queue[start + draw() % (i + 1)]);
    }
}

// One more lane of the current warp is here; the last one wakes the others.
meeting & meet(uint32_t word, int line) {
    machine & s = m();
    const int self = s.current, warp = self/WARP;
    meeting & w = s.warps[warp];
    w.word[w.turn][self % WARP] = word;
    s.fibers[self].at = state::at_warp;
    s.fibers[self].line = line;
    if (++w.arrived < WARP) {
        pause();
        return w;
    }
    for (int i = 0; i < WARP; ++i) {
        if (s.fibers[warp*WARP + i].line != line && s.error.empty()) {
            s.error = "warp " + std::to_string(warp) + ": lanes meet at lines " + std::to_string(line) + " and " +
                      std::to_string(s.fibers[warp*WARP + i].line);
        }
    }
    w.arrived = 0;
    w.turn ^= 1;
    enqueue(warp*WARP, WARP);
    pause();
    return w;
}

void create(fiber & f) {
    f.stack.reset(new char[STACK]);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, run_fiber, 0);
}

void describe_deadlock() {
    machine & s = m();
    if (!s.error.empty()) {
        return;
    }
    s.error = "threads cannot meet:";
    for (int i = 0; i < s.n; ++i) {
        const fiber & f = s.fibers[i];
        if (f.at == state::at_warp || f.at == state::at_barrier) {
            s.error += " thread " + std::to_string(i) + " waits at " + (f.at == state::at_warp ? "a shuffle" : "a barrier") +
                       ", line " + std::to_string(f.line) + ", others are elsewhere";
            return;
        }
    }
}

} // namespace

const char * last_error() { return m().error.c_str(); }
void clear_error() { m().error.clear(); }
void set_seed(uint32_t seed) { m().random = seed*2654435761u + 1u; }

int thread_index() { return m().current; }
int block_index(int axis) { return m().at[axis]; }
void * shared_memory() { return m().memory; }

void barrier(int line) {
    machine & s = m();
    fiber & f = s.fibers[s.current];
    f.at = state::at_barrier;
    f.line = line;
    if (++s.in_barrier == s.n) {
        for (int i = 0; i < s.n; ++i) {
            if (s.fibers[i].line != line && s.error.empty()) {
                s.error = "threads meet at the barriers of lines " + std::to_string(line) + " and " + std::to_string(s.fibers[i].line);
            }
        }
        s.in_barrier = 0;
        enqueue(0, s.n);
    }
    pause();
}

uint32_t exchange(uint32_t mine, int lane, int line) {
    const meeting & w = meet(mine, line);
    return w.word[w.turn ^ 1][lane & (WARP - 1)];
}

uint32_t ballot(bool mine, int line) {
    const meeting & w = meet(mine, line);
    uint32_t bits = 0;
    for (int l = 0; l < WARP; ++l) {
        bits |= w.word[w.turn ^ 1][l] << l;
    }
    return bits;
}

bool launch(const xq_grid & grid, void (*body)(void *), void * context) {
    machine & s = m();
    if (grid.threads % WARP != 0 || grid.threads > MOST) {
        s.error = "a block of " + std::to_string(grid.threads) + " threads";
        return false;
    }
    s.body = body;
    s.body_context = context;
    s.n = grid.threads;
    for (int i = 0; i < s.n; ++i) {
        if (!s.fibers[i].stack) {
            create(s.fibers[i]);
        }
    }
    for (long b = 0; b < (long) grid.x*grid.y*grid.z && s.error.empty(); ++b) {
        s.at[0] = (int) (b % grid.x);
        s.at[1] = (int) (b / grid.x % grid.y);
        s.at[2] = (int) (b / grid.x / grid.y);
        // memory of its own for every block, poisoned: NaN as floats; sized exactly for AddressSanitizer
        std::unique_ptr<char[]> memory(new char[grid.shared + 1]);
        std::memset(memory.get(), 0xFF, grid.shared);
        s.memory = memory.get();
        s.queue.clear();
        s.head = 0;
        s.order = (int) (draw() % ORDERS);
        s.done = s.in_barrier = 0;
        for (auto & w : s.warps) {
            w.arrived = w.turn = 0;
        }
        enqueue(0, s.n);
        change(nullptr, next());
        if (s.done != s.n) {
            describe_deadlock();
            for (int i = 0; i < s.n; ++i) { // their stacks hold an unfinished kernel
                s.fibers[i].started = false;
                create(s.fibers[i]);
            }
        }
    }
    return s.error.empty();
}

} // namespace xq_emulator

// Random choices that are the same on every machine, and of one operation whatever came before it.
#pragma once

#include <cstdint>
#include <initializer_list>

class dice {
public:
    dice(uint64_t seed, uint64_t number) : state(seed*0x9E3779B97F4A7C15ull ^ (number + 1)*0xD1B54A32D192ED03ull) {
        bits();
        bits();
    }

    uint64_t bits() { // splitmix64
        uint64_t z = (state += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30))*0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27))*0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }

    int pick(int lo, int hi) { return lo + (int) (bits() % (uint64_t) (hi - lo + 1)); } // both included
    bool one_in(int n) { return pick(1, n) == 1; }
    double unit() { return (double) (bits() >> 11)*0x1p-53; }
    template <class T> T of(std::initializer_list<T> list) { return list.begin()[pick(0, (int) list.size() - 1)]; }

private:
    uint64_t state;
};

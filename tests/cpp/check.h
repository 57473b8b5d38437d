// A test framework of one macro: CHECK(condition, more...) prints what failed and goes on.
#pragma once

#include <cstdio>
#include <sstream>
#include <string>

inline int         check_failures = 0;
inline std::string check_context; // printed with a failure

inline void check_failed(const char * file, int line, const char * what, const std::string & more) {
    if (++check_failures <= 20) {
        std::printf("%s:%d: CHECK(%s) failed%s%s  [%s]\n", file, line, what, more.empty() ? "" : ": ", more.c_str(), check_context.c_str());
        std::fflush(stdout); // a later crash must not take it along
    }
}

template <class... T> std::string check_text(const T &... values) {
    std::ostringstream s;
    ((s << values << ' '), ...);
    return s.str();
}

#define CHECK(condition, ...) \
    do { if (!(condition)) { check_failed(__FILE__, __LINE__, #condition, check_text(__VA_ARGS__)); } } while (0)

inline int check_report() {
    std::printf(check_failures ? "%d checks failed\n" : "all checks passed\n", check_failures);
    return check_failures != 0;
}

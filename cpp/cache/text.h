// Text that a program reads or writes: the same under every locale of the process, C's (setlocale) and C++'s
// (std::locale::global). Neither printf and strtod nor a stream of the global locale is, not even for whole numbers.
#pragma once

#include <locale>
#include <sstream>
#include <string>

struct xq_text : std::ostringstream {
    xq_text() { imbue(std::locale::classic()); }
};

// As %.<digits>g writes it.
inline std::string xq_number(double v, int digits) {
    xq_text s;
    s.precision(digits);
    s << v;
    return s.str();
}

// The number that is all of `text`; false if there is none.
inline bool xq_read_number(const std::string & text, double & v) {
    std::istringstream in(text);
    in.imbue(std::locale::classic());
    return in >> std::noskipws >> v && in.peek() == std::istringstream::traits_type::eof();
}

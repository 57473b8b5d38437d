// Random operations on a packed context and an f16 one of the same library, side by side.
//
//   fuzz [--variant NAME]... [--seed N] [--seconds N | --operations N] [--length N] [--strict] [--go-on]
//   fuzz ... [--control] [--no-aborts]
//   fuzz --variant NAME --seed N --only HISTORY [--skip 3,5-9] [--trace]
//
// A history is --length operations on new contexts. A finding prints how to do its history again, and ends the program
// with 1 unless --go-on is given. README.md says more.
#include "operations.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

struct options {
    std::vector<const variant *> variants;
    uint64_t seed = 1, operations = 0, seconds = 0, length = 150;
    long only = -1;
    bool go_on = false, trace = false, strict = false, control = false, no_aborts = false;
    std::vector<bool> skip;
};

[[noreturn]] void usage(const std::string & why) {
    std::fprintf(stderr, "%s\nvariants:", why.c_str());
    for (const auto & v : all_variants()) {
        std::fprintf(stderr, " %s", v.name);
    }
    std::fprintf(stderr, "\n");
    std::exit(2);
}

void read_skips(options & o, const char * text) {
    while (*text) {
        char * end;
        const unsigned long from = std::strtoul(text, &end, 10);
        const unsigned long to = *end == '-' ? std::strtoul(end + 1, &end, 10) : from;
        o.skip.resize(std::max(o.skip.size(), (size_t) to + 1));
        std::fill(o.skip.begin() + (long) from, o.skip.begin() + (long) to + 1, true);
        text = *end == ',' ? end + 1 : "";
    }
}

options read(int argc, char ** argv) {
    options o;
    for (int i = 1; i < argc; ++i) {
        const std::string key = argv[i];
        bool * const flag = key == "--go-on" ? &o.go_on : key == "--trace" ? &o.trace : key == "--strict" ? &o.strict :
                            key == "--control" ? &o.control : key == "--no-aborts" ? &o.no_aborts : nullptr;
        if (flag) {
            *flag = true;
            continue;
        }
        if (++i >= argc) {
            usage(key + " needs a value, or is unknown");
        }
        const char * value = argv[i];
        if (key == "--variant") {
            const auto & all = all_variants();
            const auto found = std::find_if(all.begin(), all.end(),
                [&](const variant & v) { return value == std::string(v.name); });
            if (found == all.end()) {
                usage(std::string("no variant ") + value);
            }
            o.variants.push_back(&*found);
        }
        else if (key == "--seed")       { o.seed = std::strtoull(value, nullptr, 10); }
        else if (key == "--seconds")    { o.seconds = std::strtoull(value, nullptr, 10); }
        else if (key == "--operations") { o.operations = std::strtoull(value, nullptr, 10); }
        else if (key == "--length")     { o.length = std::strtoull(value, nullptr, 10); }
        else if (key == "--only")       { o.only = std::strtol(value, nullptr, 10); }
        else if (key == "--skip")       { read_skips(o, value); }
        else { usage("no option " + key); }
    }
    if (o.variants.empty()) {
        for (const auto & v : all_variants()) {
            o.variants.push_back(&v);
        }
    }
    if (!o.operations && !o.seconds) {
        o.operations = 10000;
    }
    return o;
}

struct running {
    const variant & of;
    model_ptr model;
    tally count;
    uint64_t findings = 0;
};

// Whether it found nothing.
bool run(running & r, const options & o, uint64_t number) {
    std::string text;
    uint64_t op = 0;
    try {
        history h(r.model.get(), r.of, r.count);
        h.control = o.control;
        h.aborts = !o.no_aborts;
        for (; op < o.length && !h.over; ++op) {
            if (op < o.skip.size() && o.skip[op]) {
                continue;
            }
            const uint64_t refused = r.count.refusals;
            operate(h, dice(o.seed*1000003 + number, op), text);
            if (o.trace) {
                std::printf("%4llu  %s\n", (unsigned long long) op, text.c_str());
                std::fflush(stdout);
            }
            if (o.strict && r.count.refusals > refused) {
                throw finding("the packed cache refuses what f16 takes");
            }
        }
        ++r.count.histories;
        return true;
    } catch (const finding & f) {
        ++r.findings;
        const auto n = [](uint64_t v) { return (unsigned long long) v; };
        std::printf("FINDING in %s, operation %llu: %s: %s\n", r.of.name, n(op), text.c_str(), f.what());
        std::printf("  again: --variant %s --seed %llu --length %llu --only %llu --trace%s%s%s\n", r.of.name, n(o.seed),
                    n(o.length), n(number), o.strict ? " --strict" : "", o.control ? " --control" : "",
                    o.no_aborts ? " --no-aborts" : "");
        std::fflush(stdout);
        return false;
    }
}

// A few wrong rows hide among single outliers of a format of one bit or two, not in the mean.
void check_mean(running & r, const options & o) {
    const double mean = r.count.compared ? r.count.sum/(double) r.count.compared : 0;
    if (r.count.compared >= 20000 && mean > r.of.mean_bound && !o.control) {
        ++r.findings;
        std::printf("FINDING in %s: logits differ from f16's by %g of their variance on average, the bound is %g\n",
                    r.of.name, mean, r.of.mean_bound);
    }
}

void print(const running & r) {
    const tally & t = r.count;
    std::printf("%-17s", r.of.name);
    const struct { uint64_t n; const char * what; } counts[] = {
        {t.operations, "operations"}, {t.histories, "histories"}, {t.decodes, "calls"}, {t.tokens, "tokens"},
        {t.aborts, "aborts"}, {t.nans, "not finite"}, {t.saves, "saves"}, {t.loads, "loads"}, {t.damaged, "damaged"},
        {t.isolation, "states compared"}, {t.full, "full"}, {t.refusals, "refusals"}, {r.findings, "findings"}, {t.compared, "logits"}};
    for (const auto & c : counts) {
        std::printf(" %llu %s,", (unsigned long long) c.n, c.what);
    }
    std::printf(" error %.2g, at most %.2g\n", t.compared ? t.sum/(double) t.compared : 0, t.worst);
}

} // namespace

int main(int argc, char ** argv) {
    const options o = read(argc, argv);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    std::vector<running> all;
    for (const variant * v : o.variants) {
        all.push_back({*v, make_model(v->model), {}});
    }
    bool sound = true;
    if (o.only >= 0) {
        sound = run(all[0], o, (uint64_t) o.only);
    } else {
        const std::clock_t start = std::clock(); // processor time: other programs take none of the operations
        uint64_t done = 0;
        for (uint64_t number = 0; (sound || o.go_on); ++number) {
            const double took = (double) (std::clock() - start)/CLOCKS_PER_SEC;
            if ((o.operations && done >= o.operations) || (o.seconds && took >= (double) o.seconds)) {
                break;
            }
            running & r = all[number % all.size()];
            const uint64_t before = r.count.operations;
            sound = run(r, o, number) && sound;
            done += r.count.operations - before;
        }
    }
    uint64_t operations = 0, refusals = 0, findings = 0;
    for (running & r : all) {
        check_mean(r, o);
        sound = sound && !r.findings;
        print(r);
        operations += r.count.operations;
        refusals += r.count.refusals;
        findings += r.findings;
    }
    std::printf("%llu operations, %llu refusals that f16 does not share, %llu findings\n",
                (unsigned long long) operations, (unsigned long long) refusals, (unsigned long long) findings);
    all.clear();
    llama_backend_free();
    return sound ? 0 : 1;
}

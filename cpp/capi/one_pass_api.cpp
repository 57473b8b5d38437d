#include "graph/one_pass.h"

#include "cache/cache.h"
#include "cache/text.h"
#include "capi/give.h"
#include "capi/xquant.h"

#include "llama-context.h"

#include <exception>

namespace {

std::string list_of(const std::vector<double> & of) {
    std::string text;
    for (double x : of) {
        text += (text.empty() ? "" : ",") + xq_number(x, 9);
    }
    return "[" + text + "]";
}

} // namespace

void * xq_one_pass_new(const char * config, const double * k_bits, int n_k, const int * v_bits, int n_v) {
    try {
        return new xq_one_pass(xq_config_parse(config), {k_bits, k_bits + n_k}, {v_bits, v_bits + n_v});
    } catch (const std::exception & e) {
        xq_set_error(e.what());
        return nullptr;
    }
}

bool xq_one_pass_see(struct ggml_tensor * t, bool ask, void * pass) { return xq_one_pass::see(t, ask, pass); }

void xq_one_pass_in(void * pass, const struct llama_context * ctx) { ((xq_one_pass *) pass)->run_on(ctx->get_sched()); }

int xq_one_pass_costs(void * pass, char * buf, int size) {
    std::string text;
    for (const auto & [il, cost] : ((xq_one_pass *) pass)->costs()) {
        std::string why;
        for (char c : cost.why_none) {
            why += c == '"' || c == '\\' || (unsigned char) c < 32 ? '\'' : c;
        }
        text += (text.empty() ? "" : ",") + ("{\"il\":" + std::to_string(il)) + ",\"k\":" + list_of(cost.k) + ",\"v\":" + list_of(cost.v) +
                ",\"stream\":" + xq_number(cost.stream, 9) + ",\"why_none\":\"" + why + "\"}";
    }
    return xq_give("{\"layers\":[" + text + "]}", buf, size);
}

void xq_one_pass_free(void * pass) { delete (xq_one_pass *) pass; }

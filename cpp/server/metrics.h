// The KV cache in llama-server's /metrics: Prometheus text made of what the C API tells. Included by the patched
// server-context.cpp, which asks for it between two batches, in the thread that decodes.
#pragma once

#include "cache/text.h"
#include "capi/xquant.h"

#include <nlohmann/json.hpp>

#include <string>

inline nlohmann::ordered_json xq_told(int (*tell)(const llama_context *, char *, int), const llama_context * ctx) {
    const int length = tell(ctx, nullptr, 0);
    if (length < 0) {
        return nullptr;
    }
    std::string text((size_t) length + 1, '\0');
    tell(ctx, &text[0], length + 1);
    text.resize((size_t) length);
    return nlohmann::ordered_json::parse(text);
}

// With a cache of llama.cpp's own: its bytes alone.
inline std::string xq_metrics(const llama_context * ctx) {
    xq_text out;
    out.precision(17);
    const auto head = [&](const char * name, const char * help) {
        out << "# HELP xquant:" << name << " " << help << "\n# TYPE xquant:" << name << " gauge\n";
    };
    const auto gauge = [&](const char * name, const char * help, double value) {
        head(name, help);
        out << "xquant:" << name << " " << value << "\n";
    };
    const auto memory = xq_told(xq_memory, ctx);
    const auto report = xq_told(xq_report, ctx);
    const double recurrent = memory["recurrent"];
    double context = 0;
    for (const auto & buffer : memory["buffers"]) {
        context += (double) buffer["context"];
    }
    gauge("kv_bytes", "Bytes of the KV cache, without recurrent states", context - recurrent);
    gauge("recurrent_bytes", "Bytes of recurrent states", recurrent);
    if (report.is_null()) {
        return out.str();
    }
    head("kv_part_bytes", "Bytes of the KV cache by what they hold, and scratch beside it");
    for (const auto & [part, bytes] : report["bytes"].items()) {
        out << "xquant:kv_part_bytes{part=\"" << part << "\"} " << (double) bytes << "\n";
    }
    gauge("kv_f16_bytes", "Bytes of an f16 cache of as many tokens", report["bytes_f16"]);
    gauge("kv_code_bits", "Code bits of a packed element", report["code_bits"]);
    gauge("kv_true_bits", "Bits of a packed element with scales, zero points and padding", report["true_bits"]);
    gauge("kv_allocated_bits", "Bytes of all parts of packed layers, as bits of an element", report["allocated_bits"]);
    gauge("kv_tokens", "Tokens held now, in all slots", report["tokens"]);
    gauge("kv_tokens_max", "Tokens that can be held, in all slots", report["n_ctx"]);
    return out.str();
}

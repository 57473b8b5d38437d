// libFuzzer: settings as text are refused with a reason, or come out the same when they are written and read again.
#include "cache/config.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    const char * const seeds[] = {
        "", "k_bits=2,v_bits=2,window=128", "k_bits=1.5,v_bits=1", "k_layers=2/1.5/3,v_layers=2/1*",
        "k_alloc=uniform,k_share_from=0,k_1bit_from=0.5,v_fit=minmax,v_share_from=2,v_1bit_from=-1,follower=ls",
        "sink=4,k_eta1=0.28,v_eta4=0,k_meta=q8,v_meta=f16,max_ubatch=256,v_rot=none"};
    const char * folder = std::getenv("XQ_SEEDS");
    for (int i = 0; folder && i < (int) (sizeof seeds/sizeof *seeds); ++i) {
        std::ofstream(std::filesystem::path(folder)/("seed" + std::to_string(i))) << seeds[i];
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    std::string once;
    try {
        once = xq_config_parse(std::string((const char *) data, size)).text();
    } catch (const std::runtime_error & e) {
        if (std::string(e.what()).rfind("xquant: ", 0) != 0) {
            std::fprintf(stderr, "refused without a reason of ours: %s\n", e.what());
            std::abort();
        }
        return 0;
    }
    const std::string twice = xq_config_parse(once).text(); // throws, or
    if (twice != once) {
        std::fprintf(stderr, "%s\nis read as\n%s\n", once.c_str(), twice.c_str());
        std::abort();
    }
    return 0;
}

#include "variants.h"

const std::vector<variant> & all_variants() {
    // README.md says how the bounds were found.
    static const std::vector<variant> list = {
        {"exact",            "plain",  "window=1024,sink=0,max_ubatch=64", true, 512, 1e-3, 5e-6},
        {"exact-streams",    "plain",  "window=1024,sink=0,max_ubatch=64", false, 1024, 1e-3, 5e-6},
        {"fine",             "plain",  
         "k_bits=4,v_bits=4,k_alloc=uniform,v_fit=minmax,window=32,sink=0,max_ubatch=32", true, 512, 0.3, 0.01},
        {"fine-streams",     "plain",  "k_bits=4.5,v_bits=4,window=32,sink=4,max_ubatch=64", false, 1024, 0.3, 0.01},
        {"balanced",         "plain",  "window=64,sink=4,max_ubatch=64", true, 512, 5, 0.04},
        {"balanced-streams", "plain",  "window=32,sink=0,max_ubatch=96", false, 1024, 5, 0.3},
        {"tiny",             "plain",  "k_bits=1.5,v_bits=1,window=32,sink=40,max_ubatch=32", true, 768, 5, 0.15},
        {"followers",        "deep",
         "k_bits=2,v_bits=2,k_alloc=uniform,v_fit=minmax,k_share_from=0,v_share_from=0,sink=4,follower=ls,window=64,"
         "max_ubatch=64",
         true, 512, 5, 0.05},
        {"window",           "window", "window=32,sink=4,max_ubatch=32", true, 512, 0.1, 0.001, true},
        {"window-streams",   "window", "k_bits=4,window=32,sink=0,max_ubatch=64", false, 1024, 0.1, 0.003, true},
        {"ring-streams",     "window", "window=32,sink=4,max_ubatch=32,swa=packed", false, 4096, 3, 0.06, true, false, 64},
        {"ring-odd",         "window-100", "k_bits=4,window=32,sink=0,max_ubatch=64,swa=packed", false, 2048, 3, 0.07, true, false, 100},
        {"window-full",      "window", "window=32,sink=4,max_ubatch=32,swa=packed", true, 1024, 4, 0.04, true, false, 64, true},
        {"hybrid",           "hybrid", "window=32,sink=4,max_ubatch=64", true, 512, 0.1, 0.003, false, true},
    };
    return list;
}

// Decoding: a random batch for both contexts, with what can go wrong on the way.
#pragma once

#include "operations.h"

void decode(history & h, world & w, dice & d, std::string & text);

// llama.cpp writes and reads states of an f16 cache before copies between streams are carried out. A step carries them
// out.
void settle(world & w);

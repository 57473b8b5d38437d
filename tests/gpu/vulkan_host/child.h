// The device lives in a process of its own. A driver that crashes or hangs fails a test and not the run of all tests; the next
// dispatch begins with a new process.
#pragma once

#include "device.h"

#include <string>

constexpr size_t XQ_MEMORY = 64*1024*1024;

// Memory that both processes see; the other one copies it to the device and back. Null before the first start.
uint8_t * xq_child_memory();

// Starts the process if there is none: the device's address of the memory, or 0.
uint64_t xq_child_start(std::string & error);
const char * xq_child_device(); // its name
int xq_child_process();
void xq_child_patience(int seconds); // for an answer

// Runs a dispatch; false, with the reason, if the device could not.
bool xq_child_run(const xq_dispatch & d, std::string & error);

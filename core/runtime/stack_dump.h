// The stacks of all threads of this process, for a rank that others wait for (KHORUS_STACK_DUMPS).
//
// The process looks at itself: no debugger, no right to trace, no second process. Each thread gets
// a real-time signal, whose handler (installed by the first dump, with SA_RESTART) notes where it
// interrupted the thread; that finds also a thread that loops and never calls anything. Of threads
// that do not answer, because they block signals or sleep in the kernel, /proc tells what it knows.
//
// Thread rule: one dump at a time; it blocks for up to half a second.
#pragma once

#include <string>
#include <vector>

namespace khorus::runtime {

// Loads what a handler may not. Once, before the first dump, while the process is well.
void prepare_stack_dumps();

// Lines: "thread 12 (python3, 0x7f...)", then "  #0 nanosleep+0x1e (libc.so.6+0xd1b2a)" and so
// on. The main thread comes first; of the others those with equal stacks stand together; the
// calling thread is left out.
std::vector<std::string> native_stacks();

}  // namespace khorus::runtime

// Which network interface a group talks over. Called by the thread that connects.
#pragma once

#include <string>

#include "khorus/backend.h"

namespace khorus::backends::gloo {

// The name that was asked for; "" for loopback, which is chosen when all hosts are equal; else the
// first interface that is up, is not loopback and has an address. Throws std::runtime_error, with
// the interfaces there are, if there is none.
std::string choose_interface(const khorus_group& group);

}  // namespace khorus::backends::gloo

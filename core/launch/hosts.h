// Hosts: which there are, as -H and --hostfile give them, and which ranks each of them gets.
//
// Values and functions that read files and names; the launcher's thread. is_this_machine() may ask
// the system's resolver.
#pragma once

#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::launch {

struct Host {
  std::string user;  // for ssh; may be empty
  std::string name;  // or address
  int slots = 1;
  bool here = true;  // this machine: no ssh

  // "alice@node1", as ssh takes it
  std::string destination() const { return user.empty() ? name : user + "@" + name; }
};

// The ranks of one host: `count` from `first` on.
struct HostRanks {
  Host host;
  int first = 0;
  int count = 0;
};

// "node1:4,alice@node2:4,[fe80::1]:2", the slots are 1 unless given.
Result<std::vector<Host>> parse_hosts(const std::string& text);
// Lines "node1 slots=4", "node1:4" or "node1"; "#" begins a comment.
Result<std::vector<Host>> read_hostfile(const std::string& path);

// Finds out which hosts are this machine, and makes one of those that are named twice.
std::vector<Host> merge_hosts(std::vector<Host> hosts);
// Fills the hosts in their order; without any, all ranks are here. Hosts without ranks are left
// out. REQUIRES: there are slots enough.
std::vector<HostRanks> place_ranks(const std::vector<Host>& hosts, int processes);

// Whether `name` is an address of this machine (of this network namespace), or stands for one.
bool is_this_machine(const std::string& name);
// This machine's name, for messages.
std::string host_name();

}  // namespace khorus::launch

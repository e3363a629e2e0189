// See meeting.h.
#include "backends/nccl/meeting.h"

#include <algorithm>
#include <cstring>

#include "backends/plugin.h"

namespace khorus::backends::nccl {
namespace {

// What a rank says of itself. Plain bytes between processes of one build.
struct Card {
  int32_t version = 0;
  int32_t device = -1;
  int32_t has_kernels = 0;
  CUuuid gpu{};
  ncclUniqueId id{};  // of the first rank
};

Result<Card> make_card(const Party& party, const Library& library, const Driver& driver) {
  Card card{.version = library.version, .device = party.device};
  CUdevice handle = 0;
  CUresult result = driver.device_get(&handle, party.device);
  if (result == CUDA_SUCCESS) result = driver.device_get_uuid(&card.gpu, handle);
  if (result != CUDA_SUCCESS) {
    return Status(StatusCode::kUnavailable,
                  "GPU " + std::to_string(party.device) +
                      " does not say what it is: " + driver.describe(result));
  }
  if (party.rank != 0) return card;
  const ncclResult_t made = library.get_unique_id(&card.id);
  if (made == ncclSuccess) return card;
  return Status(StatusCode::kUnavailable,
                "NCCL makes no id to meet by: " + library.describe(made, nullptr) +
                    "; it needs a network interface that is up (NCCL_SOCKET_IFNAME)");
}

Result<std::vector<Card>> read_cards(const Exchanged& all, const Party& party) {
  std::vector<Card> cards(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].size() != sizeof(Card)) {
      return Status(StatusCode::kInternal,
                    party.name(r) + " sent " + std::to_string(all[r].size()) +
                        " bytes to meet by, not " + std::to_string(sizeof(Card)));
    }
    std::memcpy(&cards[r], all[r].data(), sizeof(Card));
  }
  return cards;
}

Status check_versions(const std::vector<Card>& cards, const Party& party) {
  for (size_t r = 1; r < cards.size(); ++r) {
    if (cards[r].version == cards[0].version) continue;
    return Status(StatusCode::kUnavailable,
                  "the ranks have different versions of NCCL: " +
                      Library::version_text(cards[0].version) + " on " + party.name(0) + " and " +
                      Library::version_text(cards[r].version) + " on " + party.name(r) +
                      "; install the same torch (or NCCL) everywhere, see khorusrun --check-build");
  }
  return {};
}

std::string find_twins(const std::vector<Card>& cards, const Party& party) {
  for (size_t a = 0; a < cards.size(); ++a) {
    for (size_t b = a + 1; b < cards.size(); ++b) {
      if (party.hosts[a] == party.hosts[b] &&
          std::memcmp(&cards[a].gpu, &cards[b].gpu, sizeof(CUuuid)) == 0) {
        return party.name(a) + " and " + party.name(b) + " both use GPU " +
               std::to_string(cards[b].device) + " of that host";
      }
    }
  }
  return {};
}

}  // namespace

Party::Party(const khorus_group& group)
    : rank(group.rank),
      size(group.size),
      device(group.device),
      global_ranks(group.global_ranks, group.global_ranks + group.size),
      hosts(group.hosts, group.hosts + group.size),
      host(group.host) {}

std::string Party::name(size_t r) const {
  return "rank " + std::to_string(global_ranks[r]) + " (" + hosts[r] + ")";
}

Result<Agreement> meet(const Party& party, const Library& library, const Driver& driver,
                       bool has_kernels) {
  Result<Card> mine = make_card(party, library, driver);
  if (!mine) return mine.status();
  mine->has_kernels = has_kernels ? 1 : 0;
  const std::string bytes(reinterpret_cast<const char*>(&*mine), sizeof(Card));
  const Result<Exchanged> all = exchange(*party.host, "nccl", bytes, party.size);
  if (!all) return all.status();
  const Result<std::vector<Card>> cards = read_cards(*all, party);
  if (!cards) return cards.status();
  if (Status status = check_versions(*cards, party); !status.ok()) return status;
  const auto has = [](const Card& card) { return card.has_kernels != 0; };
  return Agreement{cards->front().id, find_twins(*cards, party),
                   std::all_of(cards->begin(), cards->end(), has)};
}

}  // namespace khorus::backends::nccl

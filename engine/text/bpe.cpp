#include "engine/text/bpe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <queue>
#include <utility>

namespace adder::text {
namespace {

constexpr uint64_t kEmpty = ~uint64_t{0};
constexpr size_t kShortWord = 48;  // up to here a scan beats the heap

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t mix(uint64_t x) {
  x *= 0x9e3779b97f4a7c15u;
  return x ^ x >> 29;
}

// One cache line. Direct mapped: a newer word takes the place of the older one.
struct CachedWord {
  uint32_t owner = 0;
  uint8_t length = 0;
  uint8_t count = 0;
  std::array<char, 26> word{};
  std::array<int32_t, 8> ids{};
};
static_assert(sizeof(CachedWord) == 64);
constexpr size_t kCacheSize = size_t{1} << 15;  // 2 MiB for each thread that encodes

CachedWord& cached(std::string_view word) {
  thread_local const std::unique_ptr<CachedWord[]> cache(new CachedWord[kCacheSize]);
  return cache[std::hash<std::string_view>{}(word) & (kCacheSize - 1)];
}

}  // namespace

Bpe::Bpe(BpeTables tables) : tables_(std::move(tables)) {
  static std::atomic<uint32_t> owners{0};
  owner_ = ++owners;
  size_t size = 2;
  while (size < 2 * tables_.merges.size()) size *= 2;
  slots_.assign(size, Slot{kEmpty, kNone, -1});
  mask_ = size - 1;
  for (size_t i = 0; i < tables_.merges.size(); ++i) {
    const auto& merge = tables_.merges[i];
    const uint64_t key = pair_key(merge.left, merge.right);
    uint64_t at = mix(key) & mask_;
    while (slots_[at].pair != kEmpty && slots_[at].pair != key) at = (at + 1) & mask_;
    slots_[at] = Slot{key, static_cast<int32_t>(i), merge.result};
  }
  tables_.merges.clear();
  tables_.merges.shrink_to_fit();
}

const Bpe::Slot* Bpe::find(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  for (uint64_t at = mix(key) & mask_;; at = (at + 1) & mask_) {
    if (slots_[at].pair == key) return &slots_[at];
    if (slots_[at].pair == kEmpty) return nullptr;
  }
}

int32_t Bpe::rank(int32_t left, int32_t right) const {
  const Slot* slot = find(left, right);
  return slot == nullptr ? kNone : slot->rank;
}

void Bpe::encode_byte(uint8_t byte, std::vector<int32_t>& out) const {
  const int32_t id = tables_.byte_ids[byte];
  if (id >= 0) {
    out.push_back(id);
  } else if (tables_.unk_id >= 0) {
    out.push_back(tables_.unk_id);
  }
}

// The ids of the bytes, before merging.
void Bpe::start(std::string_view word, std::vector<int32_t>& symbols) const {
  symbols.clear();
  bool after_unknown = false;
  for (const char c : word) {
    const auto byte = static_cast<uint8_t>(c);
    const bool unknown = tables_.byte_ids[byte] < 0;
    if (!(unknown && after_unknown && tables_.fuse_unk)) encode_byte(byte, symbols);
    after_unknown = unknown;
  }
}

void Bpe::merge_short(std::vector<int32_t>& symbols) const {
  std::array<int32_t, kShortWord> ranks;
  size_t n = symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = rank(symbols[i], symbols[i + 1]);
  while (n > 1) {
    const auto best = std::min_element(ranks.begin(), ranks.begin() + (n - 1));
    if (*best == kNone) break;
    const auto at = static_cast<size_t>(best - ranks.begin());
    symbols[at] = find(symbols[at], symbols[at + 1])->result;
    --n;
    std::copy(symbols.begin() + at + 2, symbols.begin() + n + 1, symbols.begin() + at + 1);
    if (at < n) std::copy(best + 1, ranks.begin() + n, best);
    if (at > 0) ranks[at - 1] = rank(symbols[at - 1], symbols[at]);
    if (at + 1 < n) ranks[at] = rank(symbols[at], symbols[at + 1]);
  }
  symbols.resize(n);
}

// A list with links by index, and a heap of candidates (rank, position), some of them out of date.
void Bpe::merge_long(std::vector<int32_t>& symbols) const {
  const auto n = static_cast<int32_t>(symbols.size());
  std::vector<int32_t> previous(symbols.size());
  std::vector<int32_t> next(symbols.size());
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap;
  const auto offer = [&](int32_t at) {
    if (at < 0 || next[at] >= n) return;
    const int32_t r = rank(symbols[at], symbols[next[at]]);
    if (r != kNone) heap.push(pair_key(r, at));
  };
  for (int32_t i = 0; i < n; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1;
  }
  for (int32_t i = 0; i + 1 < n; ++i) offer(i);
  while (!heap.empty()) {
    const auto r = static_cast<int32_t>(heap.top() >> 32);
    const auto at = static_cast<int32_t>(heap.top() & 0xffffffffu);
    heap.pop();
    if (symbols[at] < 0 || next[at] >= n) continue;
    const Slot* slot = find(symbols[at], symbols[next[at]]);
    if (slot == nullptr || slot->rank != r) continue;
    const int32_t gone = next[at];
    symbols[at] = slot->result;
    symbols[gone] = -1;
    next[at] = next[gone];
    if (next[at] < n) previous[next[at]] = at;
    offer(previous[at]);
    offer(at);
  }
  std::erase(symbols, -1);
}

void Bpe::encode_uncached(std::string_view word, std::vector<int32_t>& symbols) const {
  if (!tables_.words.empty()) {
    const auto whole = tables_.words.find(std::string(word));
    if (whole != tables_.words.end()) {
      symbols.assign(1, whole->second);
      return;
    }
  }
  start(word, symbols);
  if (symbols.size() <= kShortWord) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& out) const {
  thread_local std::vector<int32_t> symbols;
  CachedWord* entry = nullptr;
  if (word.size() <= sizeof(CachedWord::word)) {
    entry = &cached(word);
    if (entry->owner == owner_ && entry->length == word.size() &&
        std::memcmp(entry->word.data(), word.data(), word.size()) == 0) {
      out.insert(out.end(), entry->ids.begin(), entry->ids.begin() + entry->count);
      return;
    }
  }
  encode_uncached(word, symbols);
  out.insert(out.end(), symbols.begin(), symbols.end());
  if (entry != nullptr && symbols.size() <= entry->ids.size()) {
    entry->owner = owner_;
    entry->length = static_cast<uint8_t>(word.size());
    entry->count = static_cast<uint8_t>(symbols.size());
    std::memcpy(entry->word.data(), word.data(), word.size());
    std::copy(symbols.begin(), symbols.end(), entry->ids.begin());
  }
  constexpr size_t kKeep = size_t{1} << 16;  // give back what one very long word needed
  if (symbols.capacity() > kKeep) std::vector<int32_t>().swap(symbols);
}

}  // namespace adder::text

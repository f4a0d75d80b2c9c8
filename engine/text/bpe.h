// Byte pair encoding of single words.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace adder::text {

// The tables of a BPE model over bytes. All ids are at least 0.
struct BpeTables {
  struct Merge {
    int32_t left, right, result;
  };
  std::vector<Merge> merges;                       // in order of rank; a repeated pair: last counts
  std::array<int32_t, 256> byte_ids{};             // -1: the vocabulary lacks the byte
  int32_t unk_id = -1;                             // stands for absent bytes; -1: they are dropped
  bool fuse_unk = false;                           // neighbouring absent bytes give one unk_id
  std::unordered_map<std::string, int32_t> words;  // taken whole, without merging (ignore_merges)
};

// Encodes words by merging the neighbours of lowest rank, leftmost first, until none is left.
// Const calls are thread-safe: a bounded cache of short words belongs to each thread.
class Bpe {
 public:
  explicit Bpe(BpeTables tables);

  // Appends the ids of `word` (bytes). O(n log n) for n bytes.
  void encode(std::string_view word, std::vector<int32_t>& out) const;

  // Appends the id of one byte by itself.
  void encode_byte(uint8_t byte, std::vector<int32_t>& out) const;

 private:
  static constexpr int32_t kNone = INT32_MAX;
  struct Slot {
    uint64_t pair;
    int32_t rank, result;
  };

  const Slot* find(int32_t left, int32_t right) const;
  int32_t rank(int32_t left, int32_t right) const;
  void start(std::string_view word, std::vector<int32_t>& symbols) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;
  void encode_uncached(std::string_view word, std::vector<int32_t>& symbols) const;

  BpeTables tables_;
  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
  uint64_t mask_ = 0;
  uint32_t owner_;  // tells this object's entries in the caches
};

}  // namespace adder::text

// Finds added tokens (end marks, runs of spaces, …) in text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace adder::text {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in the normalized text, not in the raw one
};

// A trie of contents; the leftmost occurrence counts, of those the longest.
class AddedTokenFinder {
 public:
  AddedTokenFinder() { roots_.fill(-1); }

  // `content` is what to look for: the token's content, or its normal form. Not empty. The first
  // token with a given content counts.
  void add(const AddedToken& token, std::string_view content);

  // A part of the text: an added token's occurrence, or (id -1) the text between two.
  struct Part {
    int32_t id;
    std::string_view text;
  };

  // Cuts valid UTF-8 text into parts, appended to `out`.
  void split(std::string_view text, std::vector<Part>& out) const;

 private:
  struct Node {
    uint8_t byte;
    int32_t child, sibling, token;  // -1: none
  };

  // The token that starts at `pos`, -1 if none, and where it ends.
  int32_t longest(std::string_view text, size_t pos, size_t& end) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_;  // nodes of first bytes
};

}  // namespace adder::text

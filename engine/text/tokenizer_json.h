// The content of a tokenizer.json, checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/pretokenizer.h"

namespace adder::text {

struct TokenizerSpec {
  std::vector<AddedToken> added_tokens;
  bool nfc = false;
  PreTokenizerSpec pre_tokenizer;
  std::vector<std::pair<std::string, int32_t>> vocab;  // distinct texts, distinct ids
  std::vector<std::pair<std::string, std::string>> merges;
  std::string unk_token;  // empty: none
  bool fuse_unk = false;
  bool ignore_merges = false;
};

// Ids must be below this.
inline constexpr int32_t kMaxTokens = 10'000'000;

// Throws IoError for malformed content and ConfigError for a component, an option or a value that
// is not understood; `name` stands for the file in messages.
TokenizerSpec parse_tokenizer_json(std::string_view json, const std::string& name);

}  // namespace adder::text

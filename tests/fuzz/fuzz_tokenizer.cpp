// The input up to the first zero byte is a tokenizer.json, the rest a text. Whatever the file
// holds, only adder::Error may be thrown; and the text must come back from a tokenizer that is
// known.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/error.h"
#include "engine/text/tokenizer.h"

namespace {

// The byte-level tokenizer with the GPT-2 pattern, a few merges and an added token.
adder::Tokenizer known() {
  std::string json = adder::Tokenizer::byte_level().json();
  const auto replace = [&json](const std::string& from, const std::string& to) {
    json.replace(json.find(from), from.size(), to);
  };
  replace("\"use_regex\": false", "\"use_regex\": true");
  replace("\"merges\": []", R"("merges": ["e r", "t h", "Ġ th", "a a", "aa aa"])");
  replace(R"("vocab": {)",
          R"("vocab": {"er": 300, "th": 301, "Ġth": 302, "aa": 303, "aaaa": 304,)");
  replace(R"("added_tokens": [)", R"("added_tokens": [{"id": 305, "content": "  "},)");
  return adder::Tokenizer::from_json(json, "known");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const adder::Tokenizer tokenizer = known();
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string json = input.substr(0, zero);
  const std::string text = zero == std::string::npos ? input : input.substr(zero + 1);
  if (tokenizer.decode(tokenizer.encode(text)) != text) std::abort();
  try {
    const adder::Tokenizer other = adder::Tokenizer::from_json(json, "fuzz");
    const std::string decoded = other.decode(other.encode(text), true);
    other.encode(decoded);
  } catch (const adder::Error&) {
  }
  return 0;
}

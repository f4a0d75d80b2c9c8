#include "engine/text/utf8.h"

#include <array>
#include <cstring>
#include <utf8proc.h>

namespace adder::text {
namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> to_char{};
  std::array<int16_t, 512> to_byte{};

  ByteAlphabet() {
    to_byte.fill(-1);
    char32_t next = 256;
    for (size_t b = 0; b < 256; ++b) {
      const bool printable =
          (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
      to_char[b] = printable ? static_cast<char32_t>(b) : next++;
      to_byte[to_char[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet table;
  return table;
}

bool in(char32_t c, char32_t low, char32_t high) {
  return c >= low && c <= high;
}

}  // namespace

size_t sequence_length(std::string_view s) {
  if (s.empty()) return 0;
  const auto at = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const auto continues = [&](size_t i) { return i < s.size() && (at(i) & 0xc0) == 0x80; };
  const uint8_t b = at(0);
  if (b < 0x80) return 1;
  if (b < 0xc2 || b > 0xf4 || !continues(1)) return 0;
  if (b < 0xe0) return 2;
  const uint8_t second = at(1);
  if ((b == 0xe0 && second < 0xa0) || (b == 0xed && second > 0x9f)) return 0;
  if ((b == 0xf0 && second < 0x90) || (b == 0xf4 && second > 0x8f)) return 0;
  if (!continues(2)) return 0;
  if (b < 0xf0) return 3;
  return continues(3) ? 4 : 0;
}

size_t valid_prefix(std::string_view s) {
  size_t pos = 0;
  while (pos < s.size()) {
    uint64_t word = 0;
    while (pos + sizeof(word) <= s.size()) {  // eight ASCII characters at a time
      std::memcpy(&word, s.data() + pos, sizeof(word));
      if (word & 0x8080808080808080u) break;
      pos += sizeof(word);
    }
    if (pos == s.size()) break;
    const size_t length = sequence_length(s.substr(pos, 4));
    if (length == 0) break;
    pos += length;
  }
  return pos;
}

char32_t code_point(const char* p, size_t length) {
  const auto at = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(p[i])); };
  switch (length) {
    case 1:
      return at(0);
    case 2:
      return (at(0) & 0x1f) << 6 | (at(1) & 0x3f);
    case 3:
      return (at(0) & 0x0f) << 12 | (at(1) & 0x3f) << 6 | (at(2) & 0x3f);
    default:
      return (at(0) & 0x07) << 18 | (at(1) & 0x3f) << 12 | (at(2) & 0x3f) << 6 | (at(3) & 0x3f);
  }
}

size_t last_start(std::string_view s) {
  size_t pos = s.size() - 1;
  while (pos > 0 && (static_cast<uint8_t>(s[pos]) & 0xc0) == 0x80) --pos;
  return pos;
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xe0 | c >> 12);
    } else {
      put(0xf0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3f));
    }
    put(0x80 | (c >> 6 & 0x3f));
  }
  put(0x80 | (c & 0x3f));
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == 0x20 || in(c, 0x09, 0x0d);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || in(c, 0x2000, 0x200a) || in(c, 0x2028, 0x2029) ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_word(char32_t c) {
  // Enclosed letters are symbols by category, but alphabetic.
  if (c == 0x200c || c == 0x200d || in(c, 0x24b6, 0x24e9)) return true;
  if (in(c, 0x1f130, 0x1f149) || in(c, 0x1f150, 0x1f169) || in(c, 0x1f170, 0x1f189)) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

char32_t byte_to_char(uint8_t byte) {
  return alphabet().to_char[byte];
}

std::string token_bytes(std::string_view token, bool* inside) {
  std::string out;
  bool all = true;
  for (size_t pos = 0; pos < token.size() && all;) {
    const size_t length = sequence_length(token.substr(pos, 4));
    const char32_t c = length == 0 ? 0x110000 : code_point(token.data() + pos, length);
    const int16_t byte = c < 512 ? alphabet().to_byte[c] : int16_t{-1};
    all = byte >= 0;
    if (all) out.push_back(static_cast<char>(byte));
    pos += length;
  }
  if (inside != nullptr) *inside = all;
  return all ? out : std::string(token);
}

}  // namespace adder::text

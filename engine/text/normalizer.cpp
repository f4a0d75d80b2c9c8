#include "engine/text/normalizer.h"

#include <algorithm>
#include <array>
#include <utf8proc.h>
#include <vector>

#include "engine/error.h"
#include "engine/text/utf8.h"

namespace adder::text {
namespace {

constexpr auto kCompose =
    static_cast<utf8proc_option_t>(static_cast<int>(UTF8PROC_COMPOSE) | UTF8PROC_STABLE);

int combining_class(utf8proc_int32_t c) {
  return utf8proc_get_property(c)->combining_class;
}

// Appends NFC(text) to `out`. The library's own decomposition of a string sorts marks by
// exchanging neighbours, quadratic in a long run of them, so the three steps are taken one by one.
void append_nfc(std::string_view text, std::vector<utf8proc_int32_t>& points, std::string& out) {
  points.clear();
  std::array<utf8proc_int32_t, 32> parts{};
  for (size_t pos = 0; pos < text.size();) {
    const size_t length = sequence_length(text.substr(pos, 4));
    const auto c = static_cast<utf8proc_int32_t>(code_point(text.data() + pos, length));
    const auto count = utf8proc_decompose_char(c, parts.data(), parts.size(), kCompose, nullptr);
    if (count < 0 || count > static_cast<utf8proc_ssize_t>(parts.size())) {
      throw ConfigError(str("tokenizer: NFC of U+", std::hex, c, ": ", utf8proc_errmsg(count)));
    }
    points.insert(points.end(), parts.begin(), parts.begin() + count);
    pos += length;
  }
  const auto is_starter = [](utf8proc_int32_t c) { return combining_class(c) == 0; };
  for (auto begin = points.begin(); begin != points.end();) {
    begin = std::find_if_not(begin, points.end(), is_starter);
    const auto end = std::find_if(begin, points.end(), is_starter);
    if (end - begin > 1) {
      std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
        return combining_class(a) < combining_class(b);
      });
    }
    begin = end;
  }
  const auto size = utf8proc_normalize_utf32(
      points.data(), static_cast<utf8proc_ssize_t>(points.size()), kCompose);
  if (size < 0) throw ConfigError(str("tokenizer: NFC: ", utf8proc_errmsg(size)));
  for (utf8proc_ssize_t i = 0; i < size; ++i) {
    append_utf8(out, static_cast<char32_t>(points[static_cast<size_t>(i)]));
  }
}

}  // namespace

std::string_view Normalizer::apply(std::string_view text, std::string& scratch) const {
  if (!nfc_) return text;
  // Nothing below U+0300 (lead bytes below 0xcc) changes under NFC, nor composes with what stands
  // before it. So the text can be cut before any such character, and only a stretch with higher
  // ones needs work, together with the one character before it, which a mark may join.
  const auto is_low = [](char c) { return static_cast<uint8_t>(c) < 0xcc; };
  size_t done = 0;  // what is copied to scratch so far
  bool changed = false;
  std::vector<utf8proc_int32_t> points;
  std::string form;
  for (size_t pos = 0;;) {
    while (pos < text.size() && is_low(text[pos])) ++pos;
    if (pos == text.size()) break;
    const size_t begin = pos == 0 ? 0 : last_start(text.substr(0, pos));
    while (pos < text.size()) {
      const size_t length = sequence_length(text.substr(pos, 4));
      if (length <= 2 && is_low(text[pos])) break;
      pos += length;
    }
    const std::string_view stretch = text.substr(begin, pos - begin);
    form.clear();
    append_nfc(stretch, points, form);
    if (form == stretch) continue;
    if (!changed) scratch.clear();
    changed = true;
    scratch.append(text.substr(done, begin - done)).append(form);
    done = pos;
  }
  if (!changed) return text;
  return scratch.append(text.substr(done));
}

}  // namespace adder::text

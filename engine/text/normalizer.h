// Unicode normalization of the text before it is split.
#pragma once

#include <string>
#include <string_view>

namespace adder::text {

// NFC, or nothing.
class Normalizer {
 public:
  explicit Normalizer(bool nfc) : nfc_(nfc) {}

  // The normal form of the valid UTF-8 text: `text` itself, or a view of `scratch`, which is
  // overwritten, where the form differs. Linear in time but for the sorting of runs of marks.
  std::string_view apply(std::string_view text, std::string& scratch) const;

 private:
  bool nfc_;
};

}  // namespace adder::text

// Suggestions for mistyped names.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace adder {

// The candidate with the smallest edit distance to `word` (insertions, deletions, substitutions and
// swaps of neighbours; the case of ASCII letters counts half). The first one wins a tie; empty when
// there are no candidates.
std::string nearest(std::string_view word, std::span<const std::string> candidates);

// "; did you mean 'x'?" with the nearest candidate, or "" when there is none.
std::string did_you_mean(std::string_view word, std::span<const std::string> candidates);

}  // namespace adder

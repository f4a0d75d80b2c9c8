#include "tools/train/objective.h"

namespace adder::tools {

std::string AskedBatch::describe() const {
  std::string text;
  for (std::size_t i = 0; i < examples.size();) {
    std::size_t end = i + 1;
    while (end < examples.size() && examples[end] == examples[end - 1] + 1) ++end;
    if (end - i < 3) end = i + 1;  // a range pays off from three on
    text += (text.empty() ? "examples " : ", ") + std::to_string(examples[i]);
    if (end - i > 1) text += " to " + std::to_string(examples[end - 1]);
    i = end;
  }
  return text;
}

}  // namespace adder::tools

#include "engine/text/added_tokens.h"

#include "engine/text/utf8.h"

namespace adder::text {
namespace {

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  const size_t at = last_start(text);
  return is_word(code_point(text.data() + at, text.size() - at));
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(code_point(text.data(), sequence_length(text)));
}

// Where the white space at the end of `text` starts.
size_t trailing_space(std::string_view text) {
  while (!text.empty()) {
    const size_t at = last_start(text);
    if (!is_white_space(code_point(text.data() + at, text.size() - at))) break;
    text = text.substr(0, at);
  }
  return text.size();
}

// The length of the white space at the start of `text`.
size_t leading_space(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    const size_t length = sequence_length(text.substr(pos, 4));
    if (!is_white_space(code_point(text.data() + pos, length))) break;
    pos += length;
  }
  return pos;
}

}  // namespace

void AddedTokenFinder::add(const AddedToken& token, std::string_view content) {
  int32_t* link = nullptr;
  for (const char& c : content) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t node = link == nullptr ? roots_[byte] : *link;
    while (node >= 0 && nodes_[node].byte != byte) node = nodes_[node].sibling;
    if (node < 0) {
      node = static_cast<int32_t>(nodes_.size());
      int32_t& head = link == nullptr ? roots_[byte] : *link;
      const int32_t sibling = head;
      head = node;
      nodes_.push_back({byte, -1, sibling, -1});  // invalidates link and head
    }
    link = &nodes_[node].child;
    if (&c == &content.back() && nodes_[node].token < 0) {
      nodes_[node].token = static_cast<int32_t>(tokens_.size());
    }
  }
  tokens_.push_back(token);
}

int32_t AddedTokenFinder::longest(std::string_view text, size_t pos, size_t& end) const {
  int32_t found = -1;
  int32_t node = roots_[static_cast<uint8_t>(text[pos])];
  while (node >= 0) {
    ++pos;
    if (nodes_[node].token >= 0) {
      found = nodes_[node].token;
      end = pos;
    }
    if (pos == text.size()) break;
    const auto byte = static_cast<uint8_t>(text[pos]);
    node = nodes_[node].child;
    while (node >= 0 && nodes_[node].byte != byte) node = nodes_[node].sibling;
  }
  return found;
}

void AddedTokenFinder::split(std::string_view text, std::vector<Part>& out) const {
  size_t done = 0;
  size_t run_end = 0;  // of the white space last taken by rstrip: no run is read twice
  for (size_t pos = 0; pos < text.size() && !nodes_.empty();) {
    if (roots_[static_cast<uint8_t>(text[pos])] < 0) {
      ++pos;
      continue;
    }
    size_t end = pos;
    const int32_t found = longest(text, pos, end);
    if (found < 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = pos;
    pos = end;  // the search goes on after the content, even where the token does not count
    if (token.single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) {
      begin = done < begin ? done + trailing_space(text.substr(done, begin - done)) : done;
    }
    if (token.rstrip) {
      if (end > run_end) run_end = end + leading_space(text.substr(end));
      end = run_end;
    }
    if (done < begin) out.push_back({-1, text.substr(done, begin - done)});
    if (begin < end) out.push_back({token.id, {}});
    // A token made of white space can be found within what rstrip took. Hugging Face then gives
    // both, unless the second strips too and nothing is left of it, and goes on after the second;
    // the ids have to be the same here.
    done = end;
  }
  if (done < text.size()) out.push_back({-1, text.substr(done)});
}

}  // namespace adder::text

#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/pretokenizer.h"

#include <algorithm>
#include <array>
#include <pcre2.h>
#include <utility>

#include "engine/error.h"
#include "engine/text/utf8.h"

namespace adder::text {
namespace {

using Sink = std::function<void(std::string_view)>;

// GPT-2's pattern: contractions, letters, digits, other marks, each with the space before it, and
// white space, which leaves its last character to the word that follows.
constexpr const char* kGpt2Pattern =
    R"('(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Hugging Face runs patterns by Oniguruma. They are taken as they are, except that \s and \S are
// spelt as Unicode's property (PCRE2's \s has U+180E besides); what PCRE2 would read in another
// sense is refused rather than run to give other words.
std::string to_pcre2(const std::string& pattern, const std::string& name) {
  const auto refuse = [&](size_t at, const std::string& what) {
    throw ConfigError(
        str(name, ": pattern '", pattern, "': ", what, " at byte ", at, " is not supported"));
  };
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const std::string_view rest = std::string_view(pattern).substr(i);
    if (c == '\\' && rest.size() > 1) {
      const char escape = pattern[++i];
      if (std::string_view("wWbBhHQEGKZzA").find(escape) != std::string_view::npos) {
        refuse(i - 1, str("\\", escape));
      }
      if (escape == 's' || escape == 'S') {
        out += escape == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      } else {
        out.append({c, escape});
      }
      continue;
    }
    if (in_class) {
      if (c == '[' || rest.starts_with("&&")) refuse(i, "a nested character class");
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
      const size_t first = rest.starts_with("[^") ? 2 : 1;  // a ] here is a character
      if (rest.substr(first).starts_with("]")) refuse(i, "an empty character class");
    } else if (rest.starts_with("(*")) {
      refuse(i, "(*");
    } else if (rest.starts_with("(?")) {
      const size_t end = std::min(rest.find_first_of(":)<=!>#'"), rest.size());
      const std::string_view options = rest.substr(2, end - 2);
      if (options.find_first_not_of("ix-") != std::string_view::npos) {
        refuse(i, str("(?", options));
      }
    }
    out += c;
  }
  return out;
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

PCRE2_SPTR bytes(std::string_view s) {
  return reinterpret_cast<PCRE2_SPTR>(s.data());
}

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* p) const {
    kFree(p);
  }
};
using Code = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>;

}  // namespace

class PreTokenizer::Pattern {
 public:
  Pattern(const SplitStep& step, const std::string& name)
      : behavior_(step.behavior), invert_(step.invert), name_(name) {
    constexpr size_t kMaxLength = size_t{1} << 16;
    if (step.pattern.size() > kMaxLength) {
      throw ConfigError(
          str(name, ": pattern of ", step.pattern.size(), " bytes exceeds ", kMaxLength));
    }
    // As in Oniguruma, ^ and $ belong to lines; \C would cut characters in two.
    const uint32_t options =
        PCRE2_UTF |
        (step.literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    const std::string pattern = step.literal ? step.pattern : to_pcre2(step.pattern, name);
    int error = 0;
    PCRE2_SIZE offset = 0;
    const CompileContext compile(pcre2_compile_context_create(nullptr));
    if (compile == nullptr) throw std::bad_alloc();
    pcre2_set_parens_nest_limit(compile.get(), 100);
    pcre2_set_newline(compile.get(), PCRE2_NEWLINE_LF);
    code_.reset(
        pcre2_compile(bytes(pattern), pattern.size(), options, &error, &offset, compile.get()));
    if (code_ == nullptr) {
      throw ConfigError(
          str(name, ": pattern '", pattern, "': ", pcre2_message(error), " at byte ", offset));
    }
    jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
    context_.reset(pcre2_match_context_create(nullptr));
    if (context_ == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit(context_.get(), 5'000'000);  // work for one match
    pcre2_set_heap_limit(context_.get(), 64 * 1024);   // KiB
  }

  // Calls `piece` for each not empty part of `text` that the behaviour leaves.
  template <typename F>
  void split(std::string_view text, F&& piece) const {
    if (behavior_ == SplitBehavior::kIsolated) {
      parts(text, [&](size_t begin, size_t end, bool) {
        if (begin < end) piece(text.substr(begin, end - begin));
      });
      return;
    }
    std::vector<Part> list;
    parts(text, [&](size_t begin, size_t end, bool match) {
      if (!(match && behavior_ == SplitBehavior::kRemoved)) list.push_back({begin, end, match});
    });
    merge(list);
    for (const Part& part : list) {
      if (part.begin < part.end) piece(text.substr(part.begin, part.end - part.begin));
    }
  }

 private:
  struct Part {
    size_t begin, end;
    bool match;
  };

  // Calls f(begin, end, is match) for the matches and what lies between them.
  template <typename F>
  void parts(std::string_view text, F&& f) const {
    size_t done = 0;
    size_t from = 0;
    size_t begin = 0;
    size_t end = 0;
    while (from <= text.size() && next(text, from, begin, end)) {
      const bool empty = begin >= end;
      if (empty) {  // never the same place twice
        from = begin + (begin < text.size() ? sequence_length(text.substr(begin, 4)) : 1);
        if (begin == done && done > 0) continue;
        end = begin;
      } else {
        from = end;
      }
      if (done < begin) f(done, begin, invert_);
      f(begin, end, !invert_);
      done = end;
    }
    if (done < text.size()) f(done, text.size(), invert_);
  }

  // Joins neighbours as the behaviour says.
  void merge(std::vector<Part>& list) const {
    if (behavior_ == SplitBehavior::kRemoved) return;
    const bool backwards = behavior_ == SplitBehavior::kMergedWithNext;
    if (backwards) std::reverse(list.begin(), list.end());
    std::vector<Part> joined;
    bool previous = false;
    for (const Part& part : list) {
      const bool join = behavior_ == SplitBehavior::kContiguous ? part.match == previous
                                                                : part.match && !previous;
      previous = part.match;
      if (!join || joined.empty()) {
        joined.push_back(part);
      } else if (backwards) {
        joined.back().begin = part.begin;
      } else {
        joined.back().end = part.end;
      }
    }
    if (backwards) std::reverse(joined.begin(), joined.end());
    list.swap(joined);
  }

  // The first match at or after `from`.
  bool next(std::string_view text, size_t from, size_t& begin, size_t& end) const {
    thread_local const MatchData data(pcre2_match_data_create(1, nullptr));
    if (data == nullptr) throw std::bad_alloc();
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (jit_) {
      rc = pcre2_jit_match(code_.get(), bytes(text), text.size(), from, 0, data.get(),
                           context_.get());
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter has a larger stack, on the heap
      rc = pcre2_match(code_.get(), bytes(text), text.size(), from,
                       PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), context_.get());
    }
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0) {
      throw ConfigError(str(name_, ": pattern fails at byte ", from, " of a text of ", text.size(),
                            " bytes: ", pcre2_message(rc)));
    }
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data.get());
    begin = found[0];
    end = found[1];
    return true;
  }

  SplitBehavior behavior_;
  bool invert_;
  bool jit_ = false;
  std::string name_;
  Code code_;
  MatchContext context_;
};

PreTokenizer::PreTokenizer(const PreTokenizerSpec& spec, const std::string& name)
    : add_prefix_space_(spec.add_prefix_space), split_count_(spec.splits.size()) {
  for (const SplitStep& step : spec.splits) {
    patterns_.push_back(std::make_unique<Pattern>(step, name));
  }
  if (spec.use_regex) {
    patterns_.push_back(std::make_unique<Pattern>(
        SplitStep{kGpt2Pattern, false, SplitBehavior::kIsolated, false}, name));
  }
}

PreTokenizer::~PreTokenizer() = default;

void PreTokenizer::split(std::string_view text, const Sink& word) const {
  if (text.empty()) return;
  std::vector<std::string_view> pieces{text};
  for (size_t i = 0; i < split_count_; ++i) {
    if (i + 1 == patterns_.size() && !add_prefix_space_) {  // the last one: no list needed
      for (const std::string_view piece : pieces) patterns_[i]->split(piece, word);
      return;
    }
    std::vector<std::string_view> finer;
    for (const std::string_view piece : pieces) {
      patterns_[i]->split(piece, [&](std::string_view part) { finer.push_back(part); });
    }
    pieces.swap(finer);
  }
  std::string prefixed;
  for (const std::string_view piece : pieces) {
    std::string_view whole = piece;
    if (add_prefix_space_ && piece.front() != ' ') {
      prefixed.assign(1, ' ').append(piece);
      whole = prefixed;
    }
    if (patterns_.size() > split_count_) {
      patterns_.back()->split(whole, word);
    } else {
      word(whole);
    }
  }
}

}  // namespace adder::text

// Byte-level BPE tokenizer, read from Hugging Face's tokenizer.json (GPT-2, GPT-NeoX and kin).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace adder {

// Immutable after construction; copies share the tables, and all const members may run
// concurrently. Token texts are those of the file, in its byte alphabet ("Ġthe" for " the").
class Tokenizer {
 public:
  // Reads a tokenizer.json. Throws IoError for a file that cannot be read or is malformed
  // ("path:offset: …" where the text is no JSON, "path: model.merges[3]: …" where its content is
  // wrong) and ConfigError, naming it, for a component or an option outside what is understood.
  static Tokenizer from_file(const std::string& path);

  // The same from text already in memory; `name` stands for the path in messages.
  static Tokenizer from_json(std::string_view text, const std::string& name);

  // The built-in tokenizer without data: id 0 is "<|endoftext|>", id b + 1 is byte b. No merges,
  // no normalization: every byte string round-trips.
  static Tokenizer byte_level();

  // Text to ids. Added tokens in the text are recognised; no end mark is appended. Bytes that are
  // not valid UTF-8 become their single-byte tokens, and each valid stretch between them is encoded
  // as if it stood alone. So decode(encode(s)) == s for any s unless the file asks for a change of
  // text: NFC, a prefix space, white space stripped around an added token, a Split that removes
  // what it matches, or bytes absent from the vocabulary (these give unk_token, or nothing without
  // one, as in Hugging Face). Throws ConfigError where the file's pattern exceeds matching limits.
  std::vector<int32_t> encode(std::string_view utf8_text) const;

  // Ids to bytes, without repair: an incomplete UTF-8 sequence stays as it is. Added tokens give
  // their content; with skip_special those marked special give nothing. Throws ConfigError for an
  // id that names no token.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // One more than the largest id; a file may leave ids below it unused.
  int32_t vocab_size() const;

  // The id of a token's text, if there is such a token.
  std::optional<int32_t> token_id(std::string_view token) const;

  // The text of a token. Throws ConfigError for an id that names no token.
  std::string token(int32_t id) const;

  // The id of "<|endoftext|>", if there is such a token.
  std::optional<int32_t> eos_id() const;

  // The text this was read from, to be written beside a saved model.
  const std::string& json() const;

  // Copies are cheap; there is no move, so that no object is ever empty.
  Tokenizer(const Tokenizer&) = default;
  Tokenizer& operator=(const Tokenizer&) = default;
  ~Tokenizer() = default;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl);

  std::shared_ptr<const Impl> impl_;
};

}  // namespace adder

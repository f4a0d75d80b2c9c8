#include "engine/text/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <unordered_map>
#include <utility>

#include "engine/error.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/normalizer.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace adder {
namespace {

using text::AddedTokenFinder;
using text::TokenizerSpec;

constexpr const char* kEndOfText = "<|endoftext|>";

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
};
using IdMap = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

struct Token {
  std::string text;
  std::string bytes;  // what it decodes to
  bool special = false;
};

text::BpeTables bpe_tables(const TokenizerSpec& spec, const IdMap& ids, const std::string& name) {
  text::BpeTables tables;
  const auto id_of = [&](const std::string& token, const std::string& where) {
    const auto it = ids.find(token);
    if (it == ids.end()) {
      throw IoError(str(name, ": ", where, ": '", token, "' is not in the vocabulary"));
    }
    return it->second;
  };
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const auto& [left, right] = spec.merges[i];
    const std::string where = str("model.merges[", i, "]");
    tables.merges.push_back({id_of(left, where), id_of(right, where), id_of(left + right, where)});
  }
  for (size_t b = 0; b < tables.byte_ids.size(); ++b) {
    std::string token;
    text::append_utf8(token, text::byte_to_char(static_cast<uint8_t>(b)));
    const auto it = ids.find(token);
    tables.byte_ids[b] = it == ids.end() ? -1 : it->second;
  }
  if (!spec.unk_token.empty()) tables.unk_id = id_of(spec.unk_token, "model.unk_token");
  tables.fuse_unk = spec.fuse_unk;
  if (spec.ignore_merges) {
    for (const auto& [token, id] : spec.vocab) {
      bool inside = false;
      std::string bytes = text::token_bytes(token, &inside);
      if (inside) tables.words.emplace(std::move(bytes), id);
    }
  }
  return tables;
}

}  // namespace

struct Tokenizer::Impl {
  std::string json;
  IdMap ids;
  std::vector<Token> tokens;
  std::vector<int32_t> index;  // id to place in tokens, -1 where the id is unused
  AddedTokenFinder raw_tokens, normalized_tokens;
  text::Normalizer normalizer;
  text::PreTokenizer pre_tokenizer;
  text::Bpe bpe;

  Impl(std::string_view source, const TokenizerSpec& spec, IdMap vocab, const std::string& name)
      : json(source),
        ids(std::move(vocab)),
        normalizer(spec.nfc),
        pre_tokenizer(spec.pre_tokenizer, str(name, ": pre_tokenizer")),
        bpe(bpe_tables(spec, ids, name)) {
    for (const auto& [token, id] : spec.vocab) add({token, text::token_bytes(token)}, id);
    for (const auto& token : spec.added_tokens) add_token(token, name);
  }

  void add(Token token, int32_t id) {
    const auto place = static_cast<size_t>(id);
    if (place >= index.size()) index.resize(place + 1, -1);
    index[place] = static_cast<int32_t>(tokens.size());
    tokens.push_back(std::move(token));
  }

  void add_token(const text::AddedToken& token, const std::string& name) {
    const auto known = ids.find(token.content);
    const bool used = static_cast<size_t>(token.id) < index.size() && index[token.id] >= 0;
    if (known != ids.end() && known->second != token.id) {
      throw IoError(str(name, ": added_tokens: '", token.content, "' has the ids ", token.id,
                        " and ", known->second));
    }
    if (known == ids.end() && used) {
      throw IoError(str(name, ": added_tokens: '", token.content, "' has the id ", token.id,
                        " of '", tokens[index[token.id]].text, "'"));
    }
    if (known == ids.end()) {
      ids.emplace(token.content, token.id);
      add({token.content, token.content, token.special}, token.id);
    } else {
      Token& entry = tokens[index[token.id]];
      entry.bytes = token.content;
      entry.special = token.special;
    }
    std::string scratch;
    if (token.normalized) {
      normalized_tokens.add(token, normalizer.apply(token.content, scratch));
    } else {
      raw_tokens.add(token, token.content);
    }
  }

  const Token& at(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= index.size() || index[id] < 0) {
      throw ConfigError(str("tokenizer: id ", id, " is not in the vocabulary (", tokens.size(),
                            " tokens, ids below ", index.size(), ")"));
    }
    return tokens[index[id]];
  }

  // Hugging Face's pipeline for valid UTF-8.
  void encode(std::string_view valid, std::vector<int32_t>& out) const {
    std::vector<AddedTokenFinder::Part> raw, normal;
    std::string scratch;
    const std::function<void(std::string_view)> encode_word = [&](std::string_view word) {
      bpe.encode(word, out);
    };
    raw_tokens.split(valid, raw);
    for (const auto& part : raw) {
      if (part.id >= 0) {
        out.push_back(part.id);
        continue;
      }
      normal.clear();
      normalized_tokens.split(normalizer.apply(part.text, scratch), normal);
      for (const auto& piece : normal) {
        if (piece.id >= 0) {
          out.push_back(piece.id);
        } else {
          pre_tokenizer.split(piece.text, encode_word);
        }
      }
    }
  }
};

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& name) {
  const TokenizerSpec spec = text::parse_tokenizer_json(text, name);
  IdMap ids(spec.vocab.begin(), spec.vocab.end());
  return Tokenizer(std::make_shared<const Impl>(text, spec, std::move(ids), name));
}

Tokenizer Tokenizer::from_file(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) throw IoError(str(path, ": cannot read: ", error.message()));
  constexpr uintmax_t kLargest = uintmax_t{1} << 30;
  if (size > kLargest) {
    throw IoError(str(path, ": ", size, " bytes; no tokenizer.json exceeds ", kLargest));
  }
  std::string json(size, '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(json.data(), static_cast<std::streamsize>(size))) {
    throw IoError(str(path, ":", in.gcount(), ": cannot read"));
  }
  return from_json(json, path);
}

Tokenizer Tokenizer::byte_level() {
  // Written by hand to keep the ids in order: one line for each token. The end mark is in the
  // vocabulary too, for Hugging Face numbers added tokens that are not after those that are.
  std::string json = R"({
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [
    {"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false, "special": true}
  ],
  "normalizer": null,
  "pre_tokenizer": {
    "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
  "post_processor": null,
  "decoder": {
    "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {
      "<|endoftext|>": 0)";
  for (int b = 0; b < 256; ++b) {
    json += ",\n      \"";
    const char32_t c = text::byte_to_char(static_cast<uint8_t>(b));
    if (c == '"' || c == '\\') json += '\\';
    text::append_utf8(json, c);
    json += str("\": ", b + 1);
  }
  json += "\n    },\n    \"merges\": []\n  }\n}\n";
  return from_json(json, "byte-level tokenizer");
}

std::vector<int32_t> Tokenizer::encode(std::string_view utf8_text) const {
  std::vector<int32_t> out;
  out.reserve(utf8_text.size() / 3);
  while (!utf8_text.empty()) {
    const size_t valid = text::valid_prefix(utf8_text);
    if (valid > 0) impl_->encode(utf8_text.substr(0, valid), out);
    utf8_text.remove_prefix(valid);
    while (!utf8_text.empty() && text::sequence_length(utf8_text.substr(0, 4)) == 0) {
      impl_->bpe.encode_byte(static_cast<uint8_t>(utf8_text.front()), out);
      utf8_text.remove_prefix(1);
    }
  }
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  out.reserve(ids.size() * 4);
  for (const int32_t id : ids) {
    const Token& token = impl_->at(id);
    if (!(skip_special && token.special)) out += token.bytes;
  }
  return out;
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(impl_->index.size());
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto it = impl_->ids.find(token);
  if (it == impl_->ids.end()) return std::nullopt;
  return it->second;
}

std::string Tokenizer::token(int32_t id) const {
  return impl_->at(id).text;
}

std::optional<int32_t> Tokenizer::eos_id() const {
  return token_id(kEndOfText);
}

const std::string& Tokenizer::json() const {
  return impl_->json;
}

}  // namespace adder

// UTF-8 and Unicode character classes as the tokenizer needs them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace adder::text {

// The length in bytes of the valid UTF-8 sequence at the start of `s`, 0 if there is none
// (overlong forms, surrogates and values above U+10FFFF are invalid).
size_t sequence_length(std::string_view s);

// The length in bytes of the longest valid UTF-8 prefix of `s`.
size_t valid_prefix(std::string_view s);

// The code point of the valid sequence of `length` bytes at `p`.
char32_t code_point(const char* p, size_t length);

// Where the last code point of the valid, not empty `s` starts.
size_t last_start(std::string_view s);

void append_utf8(std::string& out, char32_t c);

// Unicode's White_Space property.
bool is_white_space(char32_t c);

// Whether regular expressions count `c` among \w (Unicode TR18: letters, marks, decimal digits,
// connector punctuation, join controls).
bool is_word(char32_t c);

// The character that stands for a byte in the vocabulary of a byte-level tokenizer: the printable
// characters of Latin-1 stand for themselves, the others are moved to U+0100 and following.
char32_t byte_to_char(uint8_t byte);

// The bytes that the text of a token stands for; the text itself if it has a character outside
// the byte alphabet. `inside` tells which, when given.
std::string token_bytes(std::string_view token, bool* inside = nullptr);

}  // namespace adder::text

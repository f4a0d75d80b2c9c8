// Reads whole text files, plain or xz-compressed.
#pragma once

#include <string>

namespace adder::tools {

// The file's content, unpacked when it starts with the xz mark. Throws IoError.
std::string read_text_file(const std::string& path);

// Unpacks one or more concatenated xz streams; `name` is for messages. Throws IoError.
std::string unpack_xz(const std::string& packed, const std::string& name);

}  // namespace adder::tools

// The directory of a zip file with stored (uncompressed) members. Private to engine/io.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace adder::io {

struct ZipMember {
  std::uint64_t offset = 0;  // of the first byte of its content in the file
  std::uint64_t size = 0;
  int method = 0;  // 0: stored
  bool encrypted = false;
};

// The members of the zip file `bytes` by name, ZIP64 included (layout: PKWARE's APPNOTE 6.3.10,
// sections 4.3 and 4.5.3). Every offset is checked against the file, and members must not overlap.
// Checksums are not compared: PyTorch can be told not to compute them. Throws IoError
// "path:offset".
std::map<std::string, ZipMember> read_zip_directory(std::string_view bytes,
                                                    const std::string& path);

}  // namespace adder::io

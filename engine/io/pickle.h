// A reader of the pickles inside PyTorch's files. Private to engine/io.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace adder::io {

// A tensor as the pickle describes it: a strided view of a storage member. Nothing in it has been
// checked against the storage; extents, strides and numbers can be anything.
struct PickledTensor {
  std::string name;          // keys of the dictionaries that lead to it, joined by '.'
  std::string storage_type;  // "FloatStorage"
  std::string storage_key;   // the member data/<key>
  std::int64_t storage_numel = 0;
  std::int64_t offset = 0;  // in elements, as the strides
  std::vector<std::int64_t> extents;
  std::vector<std::int64_t> strides;
  std::uint64_t place = 0;  // where the pickle builds it, in the file
};

// The tensors of the dictionary in `pickle`, protocols 2 to 5, as torch.save writes it. Opcodes
// only ever build tensors, dictionaries, lists, tuples and plain values: no global is looked up and
// nothing is called. Throws IoError "path:offset" with offsets counted from `base`; depth, number
// of objects and length of names are limited.
std::vector<PickledTensor> read_pickled_tensors(std::string_view pickle, const std::string& path,
                                                std::uint64_t base);

}  // namespace adder::io

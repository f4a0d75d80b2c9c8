// PyTorch's zip format, read without running anything.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace adder {

// A file that torch.save wrote for a dictionary of tensors (a state dict). The pickle inside goes
// through a reader that knows tensors, dictionaries and plain values and calls no code: any other
// global is an IoError that names it. Nested dictionaries are flattened with '.', values that are
// not tensors are ignored.
class TorchBinFile {
 public:
  static TorchBinFile open(const std::string& path);  // throws IoError
  static TorchBinFile from_bytes(std::string bytes, const std::string& name);

  std::vector<std::string> names() const;  // in the file's order
  bool contains(const std::string& name) const;

  // A read-only view of the mapped file, which it keeps alive; a contiguous copy where the tensor
  // is strided or the file is not aligned. Throws IoError for an absent name (with the nearest one)
  // and for an element type the library does not have.
  Tensor load(const std::string& name) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace adder

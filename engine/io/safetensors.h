// Weights in files: safetensors, and model directories of one file or several shards.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/io/file.h"
#include "engine/tensor.h"

namespace adder {

struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::f32;  // meaningless when !supported
  Shape shape;
  std::uint64_t begin = 0;  // bytes of the data section
  std::uint64_t end = 0;
  std::string type;  // as the header writes it: "F32", "BF16", "BOOL", …
  bool supported = true;
};

// One .safetensors file. Opening it checks the whole header against the file: tensors that overlap,
// leave holes, or whose extents disagree with their bytes are IoErrors "path:offset: …".
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);
  static SafetensorsFile from_bytes(std::string bytes, const std::string& name);

  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return index_.count(name) > 0; }

  // A read-only view of the mapped file, which it keeps alive (a copy where the file is not aligned
  // to the element size): clone() it before writing. Throws IoError for an absent name (with the
  // nearest one) and for an element type the library does not have.
  Tensor load(const std::string& name) const;

 private:
  explicit SafetensorsFile(std::shared_ptr<MappedFile> file);
  std::shared_ptr<MappedFile> file_;
  std::uint64_t data_begin_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

// Writes tensors of any strides and devices, one at a time and atomically (see AtomicFile). They
// keep the order given, except that wider element types come first, as readers expect every tensor
// to be aligned. Throws IoError, also for a name given twice.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// The weights of a model: of a directory with model.safetensors, model.safetensors.index.json and
// its shards, pytorch_model.bin, or pytorch_model.bin.index.json and its shards (the first of these
// that exists), or of a single file of either format.
class WeightFiles {
 public:
  static WeightFiles open(const std::string& path);  // throws IoError

  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const;
  Tensor load(const std::string& name) const;  // as SafetensorsFile::load
  // The file that holds the tensor, for messages. Throws IoError for an absent name.
  const std::string& file_of(const std::string& name) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace adder

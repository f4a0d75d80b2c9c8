#include "engine/io/torch_bin.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "engine/error.h"
#include "engine/io/bytes.h"
#include "engine/io/file.h"
#include "engine/io/pickle.h"
#include "engine/io/zip.h"
#include "engine/text/suggest.h"

namespace adder {
namespace {

constexpr std::uint64_t kMaxPickle = std::uint64_t{64} << 20;
// A copy of a strided tensor may be larger than its storage (stride 0), but not without limit.
constexpr std::uint64_t kMaxExpanded = std::uint64_t{64} << 20;

struct StorageType {
  const char* name;
  std::uint64_t size;
  std::optional<Dtype> dtype;
};

// Those without a dtype can stand in a file but not be loaded.
constexpr StorageType kStorageTypes[] = {
    {"FloatStorage", 4, Dtype::f32},
    {"HalfStorage", 2, Dtype::f16},
    {"BFloat16Storage", 2, Dtype::bf16},
    {"DoubleStorage", 8, Dtype::f64},
    {"LongStorage", 8, Dtype::i64},
    {"IntStorage", 4, Dtype::i32},
    {"ByteStorage", 1, Dtype::u8},
    {"BoolStorage", 1, {}},
    {"CharStorage", 1, {}},
    {"ShortStorage", 2, {}},
    {"ComplexFloatStorage", 8, {}},
    {"ComplexDoubleStorage", 16, {}},
    {"QInt8Storage", 1, {}},
    {"QUInt8Storage", 1, {}},
    {"QInt32Storage", 4, {}},
};

struct Stored {
  io::PickledTensor tensor;
  const StorageType* type = nullptr;
  std::uint64_t storage_begin = 0;  // in the file
  std::int64_t numel = 0;
};

bool is_contiguous(const io::PickledTensor& tensor) {
  std::int64_t step = 1;
  for (std::size_t axis = tensor.extents.size(); axis-- > 0;) {
    if (tensor.extents[axis] != 1 && tensor.strides[axis] != step) return false;
    step *= tensor.extents[axis];
  }
  return true;
}

// Finds the tensor's storage and checks that every element lies in it.
Stored check(io::PickledTensor tensor, const std::map<std::string, io::ZipMember>& members,
             const std::string& root, const std::string& path) {
  Stored stored;
  const std::string place = str("tensor '", io::printable(tensor.name), "'");
  const auto* type = std::find_if(std::begin(kStorageTypes), std::end(kStorageTypes),
                                  [&](const auto& t) { return tensor.storage_type == t.name; });
  if (type == std::end(kStorageTypes)) {
    throw IoError(str(path, ":", tensor.place, ": ", place, " has the unknown storage torch.",
                      io::printable(tensor.storage_type)));
  }
  const auto member = members.find(root + "data/" + tensor.storage_key);
  if (member == members.end()) {
    throw IoError(str(path, ":", tensor.place, ": ", place, " refers to data/",
                      io::printable(tensor.storage_key), ", which the file does not contain"));
  }
  const io::ZipMember& storage = member->second;
  const std::string at = str(path, ":", storage.offset, ": ", place);
  if (storage.method != 0 || storage.encrypted) throw IoError(at + " is compressed or encrypted");
  if (tensor.storage_numel < 0 ||
      static_cast<std::uint64_t>(tensor.storage_numel) > storage.size / type->size) {
    throw IoError(str(at, " has a storage of ", tensor.storage_numel, " elements of ", type->size,
                      " bytes in a member of ", storage.size, " bytes"));
  }
  const std::optional<std::int64_t> numel = io::checked_numel(tensor.extents);
  bool inside = numel.has_value() && tensor.offset >= 0 && tensor.offset <= tensor.storage_numel;
  std::int64_t last = tensor.offset;
  for (std::size_t axis = 0; axis < tensor.extents.size() && inside && *numel > 0; ++axis) {
    std::int64_t reach = 0;
    inside = tensor.strides[axis] >= 0 &&
             !__builtin_mul_overflow(tensor.extents[axis] - 1, tensor.strides[axis], &reach) &&
             !__builtin_add_overflow(last, reach, &last);
  }
  if (!inside || (*numel > 0 && last >= tensor.storage_numel)) {
    const auto show = [](const std::vector<std::int64_t>& v) { return Shape(v).to_string(); };
    throw IoError(str(at, " of shape ", show(tensor.extents), ", strides ", show(tensor.strides),
                      " and offset ", tensor.offset, " does not fit its storage of ",
                      tensor.storage_numel, " elements"));
  }
  const std::uint64_t bytes = static_cast<std::uint64_t>(*numel) * type->size;
  if (!is_contiguous(tensor) && bytes > std::max(kMaxExpanded, storage.size)) {
    throw IoError(str(at, " expands ", storage.size, " bytes to ", bytes));
  }
  stored.tensor = std::move(tensor);
  stored.type = type;
  stored.storage_begin = storage.offset;
  stored.numel = *numel;
  return stored;
}

// Copies elements in row-major order out of strided memory; returns the end of what it wrote.
char* gather(const io::PickledTensor& tensor, std::size_t axis, const char* from, std::size_t size,
             char* to) {
  if (axis == tensor.extents.size()) {
    std::memcpy(to, from, size);
    return to + size;
  }
  const std::int64_t step = tensor.strides[axis] * static_cast<std::int64_t>(size);
  for (std::int64_t i = 0; i < tensor.extents[axis]; ++i) {
    to = gather(tensor, axis + 1, from + i * step, size, to);
  }
  return to;
}

}  // namespace

struct TorchBinFile::Impl {
  std::shared_ptr<MappedFile> file;
  std::vector<Stored> tensors;
  std::map<std::string, std::size_t> index;

  explicit Impl(std::shared_ptr<MappedFile> mapped) : file(std::move(mapped)) {
    const std::string& path = file->path();
    check_format();
    const std::map<std::string, io::ZipMember> members = io::read_zip_directory(file->view(), path);
    const std::string root = find_root(members);
    if (const auto order = members.find(root + "byteorder"); order != members.end()) {
      const std::string_view text = content(order->first, order->second, 16);
      if (text != "little") {
        throw IoError(str(path, ":", order->second.offset, ": byte order '", io::printable(text),
                          "'; only little can be read"));
      }
    }
    const io::ZipMember& pickle = members.at(root + "data.pkl");
    for (io::PickledTensor& tensor :
         io::read_pickled_tensors(content("data.pkl", pickle, kMaxPickle), path, pickle.offset)) {
      tensors.push_back(check(std::move(tensor), members, root, path));
      index[tensors.back().tensor.name] = tensors.size() - 1;
    }
  }

  void check_format() const {
    const std::string_view view = file->view();
    if (view.starts_with("PK")) return;
    if (view.starts_with("\x80")) {
      throw IoError(str(file->path(),
                        ":0: written in PyTorch's format from before version 1.6, which is not "
                        "read; convert it once with torch.save(torch.load('old.bin', "
                        "map_location='cpu', weights_only=True), 'new.bin')"));
    }
    throw IoError(str(file->path(), ":0: not a PyTorch file (it is no zip archive)"));
  }

  // The folder inside the archive, "archive/" in most files.
  std::string find_root(const std::map<std::string, io::ZipMember>& members) const {
    constexpr std::string_view kPickle = "data.pkl";
    std::optional<std::string> root;
    for (const auto& item : members) {
      const std::string& name = item.first;
      if (!name.ends_with(kPickle)) continue;
      const std::string folder = name.substr(0, name.size() - kPickle.size());
      if (!folder.empty() && folder.find('/') != folder.size() - 1) continue;
      if (root) throw IoError(str(file->path(), ":0: two data.pkl in one PyTorch file"));
      root = folder;
    }
    if (!root) throw IoError(str(file->path(), ":0: no data.pkl, so not a PyTorch file"));
    return *root;
  }

  std::string_view content(const std::string& name, const io::ZipMember& member,
                           std::uint64_t limit) const {
    if (member.method != 0 || member.encrypted || member.size > limit) {
      throw IoError(str(file->path(), ":", member.offset, ": ", io::printable(name), " of ",
                        member.size, " bytes is compressed, encrypted or above ", limit));
    }
    return file->view().substr(static_cast<std::size_t>(member.offset),
                               static_cast<std::size_t>(member.size));
  }
};

TorchBinFile TorchBinFile::open(const std::string& path) {
  TorchBinFile file;
  file.impl_ = std::make_shared<const Impl>(MappedFile::open(path));
  return file;
}

TorchBinFile TorchBinFile::from_bytes(std::string bytes, const std::string& name) {
  TorchBinFile file;
  file.impl_ = std::make_shared<const Impl>(MappedFile::from_bytes(std::move(bytes), name));
  return file;
}

std::vector<std::string> TorchBinFile::names() const {
  std::vector<std::string> names;
  for (const Stored& stored : impl_->tensors) names.push_back(stored.tensor.name);
  return names;
}

bool TorchBinFile::contains(const std::string& name) const {
  return impl_->index.count(name) > 0;
}

Tensor TorchBinFile::load(const std::string& name) const {
  const std::string& path = impl_->file->path();
  const auto found = impl_->index.find(name);
  if (found == impl_->index.end()) {
    throw IoError(str(path, ": no tensor '", name, "'", did_you_mean(name, names())));
  }
  const Stored& stored = impl_->tensors[found->second];
  const io::PickledTensor& tensor = stored.tensor;
  if (!stored.type->dtype) {
    throw IoError(str(path, ":", stored.storage_begin, ": tensor '", name, "' is in a torch.",
                      stored.type->name,
                      "; only float32, float64, bfloat16, float16, int32, int64 "
                      "and uint8 can be loaded"));
  }
  const std::uint64_t begin =
      stored.storage_begin + static_cast<std::uint64_t>(tensor.offset) * stored.type->size;
  const Shape shape(tensor.extents);
  if (is_contiguous(tensor) || stored.numel == 0) {
    return io::tensor_in_file(impl_->file, begin, shape, *stored.type->dtype);
  }
  Tensor copy = Tensor::empty(shape, *stored.type->dtype);
  gather(tensor, 0, impl_->file->data() + begin, static_cast<std::size_t>(stored.type->size),
         static_cast<char*>(copy.raw()));
  return copy;
}

}  // namespace adder

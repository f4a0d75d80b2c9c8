#include "engine/io/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "engine/error.h"
#include "engine/io/bytes.h"
#include "engine/text/suggest.h"

namespace adder {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr std::uint64_t kPrefix = 8;  // the length of the header, in bytes, comes first
constexpr const char* kMetadata = "__metadata__";

struct TypeName {
  const char* name;
  std::uint64_t size;
  std::optional<Dtype> dtype;
};

// The format's element types; those without a dtype can stand in a file but not be loaded.
constexpr TypeName kTypes[] = {
    {"F32", 4, Dtype::f32}, {"F64", 8, Dtype::f64}, {"BF16", 2, Dtype::bf16},
    {"F16", 2, Dtype::f16}, {"I32", 4, Dtype::i32}, {"I64", 8, Dtype::i64},
    {"U8", 1, Dtype::u8},   {"BOOL", 1, {}},        {"I8", 1, {}},
    {"I16", 2, {}},         {"U16", 2, {}},         {"U32", 4, {}},
    {"U64", 8, {}},         {"F8_E4M3", 1, {}},     {"F8_E5M2", 1, {}},
    {"F8_E8M0", 1, {}},     {"C64", 8, {}},
};

const TypeName* find_type(std::string_view name) {
  for (const TypeName& type : kTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

const char* type_name(Dtype dtype) {
  for (const TypeName& type : kTypes) {
    if (type.dtype == dtype) return type.name;
  }
  throw DtypeError(str("safetensors: no name for ", dtype_name(dtype)));
}

// Receives the events of the JSON parser and accepts nothing but the format: an object of tensors
// {"dtype": string, "shape": [..], "data_offsets": [begin, end]} and of "__metadata__" strings. No
// tree is built, so a hostile header costs no more memory than its own size.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  bool null() override { return wrong("null"); }
  bool boolean(bool) override { return wrong("a boolean"); }
  bool number_float(double, const std::string& text) override {
    return wrong(str("the number ", io::printable(text, 40)));
  }
  bool number_integer(std::int64_t value) override { return wrong(str("the number ", value)); }
  bool number_unsigned(std::uint64_t value) override {
    if (depth_ != 3) return wrong(str("the number ", value));
    numbers_.push_back(value);
    if (numbers_.size() > static_cast<std::size_t>(Shape::kMaxRank)) {
      fail(str("'", field_, "' has more than ", Shape::kMaxRank, " numbers"));
    }
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_) {
      metadata[field_] = value;
    } else if (depth_ == 2 && field_ == "dtype") {
      const TypeName* type = find_type(value);
      if (type == nullptr) fail(str("unknown dtype '", io::printable(value, 40), "'"));
      entry_.type = value;
      entry_.supported = type->dtype.has_value();
      entry_.dtype = type->dtype.value_or(Dtype::u8);
    } else {
      return wrong("a string");
    }
    return true;
  }
  bool binary(Json::binary_t&) override { return wrong("binary data"); }

  bool start_object(std::size_t) override {
    if (depth_ > 1) return wrong("an object");
    if (depth_++ == 1) {
      entry_ = SafetensorsEntry();
      entry_.name = name_;
      in_metadata_ = name_ == kMetadata;
      fields_.clear();
    }
    return true;
  }
  bool key(std::string& value) override {
    if (depth_ == 1) {
      name_ = value;
      in_metadata_ = false;
      if (!names_.insert(value).second) fail("is listed twice");
      return true;
    }
    field_ = value;
    if (!in_metadata_ && value != "dtype" && value != "shape" && value != "data_offsets") {
      fail(str("unknown key '", io::printable(value, 40), "'"));
    }
    if (!fields_.insert(value).second) fail(str("'", io::printable(value), "' is given twice"));
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1 && !in_metadata_) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (fields_.count(field) == 0) fail(str("has no '", field, "'"));
      }
      entries.push_back(std::move(entry_));
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || field_ == "dtype") return wrong("an array");
    numbers_.clear();
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    if (field_ == "shape") {
      std::vector<std::int64_t> extents;
      for (const std::uint64_t n : numbers_) {
        // Out of range becomes negative, which the check below refuses.
        extents.push_back(n > std::uint64_t{1} << 62 ? -1 : static_cast<std::int64_t>(n));
      }
      if (!io::checked_numel(extents)) fail("its extents overflow");
      entry_.shape = Shape(extents);
    } else {
      if (numbers_.size() != 2) fail(str("data_offsets has ", numbers_.size(), " numbers, not 2"));
      entry_.begin = numbers_[0];
      entry_.end = numbers_[1];
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    throw IoError(str(path_, ":", kPrefix + position,
                      ": the header is not JSON: ", io::printable(error.what(), 200)));
  }

  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw IoError(str(path_, ":", kPrefix, ": tensor '", io::printable(name_), "' ", what));
  }
  bool wrong(const std::string& found) const {
    if (depth_ == 0) throw IoError(str(path_, ":", kPrefix, ": the header is not an object"));
    if (depth_ == 1) fail(str("is ", found, ", not an object"));
    fail(str("'", io::printable(field_, 40), "' cannot be or hold ", found));
  }

  const std::string& path_;
  int depth_ = 0;  // 1 in the header, 2 in a tensor or the metadata, 3 in an array of a tensor
  bool in_metadata_ = false;
  std::string name_;
  std::string field_;
  SafetensorsEntry entry_;
  std::vector<std::uint64_t> numbers_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
};

// Every byte of the data section belongs to exactly one tensor.
void check_extents(const std::string& path, std::uint64_t data_begin, std::uint64_t data_bytes,
                   std::vector<SafetensorsEntry>& entries) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t used = 0;
  std::string last = "the header";
  for (const SafetensorsEntry& entry : entries) {
    const std::string place = str(path, ":", kPrefix, ": tensor '", io::printable(entry.name), "'");
    const std::string range = str("bytes [", entry.begin, ", ", entry.end, ")");
    if (entry.begin > entry.end || entry.end > data_bytes) {
      throw IoError(str(place, " has ", range, " of a data section of ", data_bytes,
                        entry.end > data_bytes ? " bytes: the file is truncated or wrong" : ""));
    }
    const std::uint64_t needed =
        static_cast<std::uint64_t>(entry.shape.numel()) * find_type(entry.type)->size;
    if (entry.end - entry.begin != needed) {
      throw IoError(str(place, " of ", entry.type, " ", entry.shape, " needs ", needed,
                        " bytes but has ", range, " = ", entry.end - entry.begin));
    }
    if (entry.begin != used) {
      throw IoError(str(place, " has ", range, entry.begin < used ? ", which overlap " : " after ",
                        last, entry.begin < used ? "" : ": a hole", " (which ends at ", used, ")"));
    }
    used = entry.end;
    last = str("'", io::printable(entry.name), "'");
  }
  if (used != data_bytes) {
    throw IoError(str(path, ":", data_begin + used, ": ", data_bytes - used,
                      " bytes after the last tensor belong to none"));
  }
}

std::string quoted(const std::string& path, const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    throw IoError(str(path, ": '", io::printable(text), "' is not UTF-8"));
  }
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  return SafetensorsFile(MappedFile::open(path));
}

SafetensorsFile SafetensorsFile::from_bytes(std::string bytes, const std::string& name) {
  return SafetensorsFile(MappedFile::from_bytes(std::move(bytes), name));
}

SafetensorsFile::SafetensorsFile(std::shared_ptr<MappedFile> file) : file_(std::move(file)) {
  const std::string& path = file_->path();
  const std::string_view all = file_->view();
  if (all.size() < kPrefix) {
    throw IoError(str(path, ":0: ", all.size(), " bytes are too few for a safetensors file"));
  }
  const std::uint64_t length = io::load_le(all.data(), 8);
  if (length > kMaxHeader || length > all.size() - kPrefix) {
    throw IoError(str(path, ":0: a header of ", length, " bytes, but the file has ", all.size(),
                      " bytes and ", kMaxHeader, " are allowed: truncated, or not safetensors"));
  }
  const std::string_view header = all.substr(kPrefix, static_cast<std::size_t>(length));
  if (header.empty() || header[0] != '{') {
    throw IoError(str(path, ":", kPrefix, ": the header is not a JSON object"));
  }
  // The JSON parser takes a zero byte for the end of the text.
  if (const std::size_t zero = header.find('\0'); zero != std::string_view::npos) {
    throw IoError(str(path, ":", kPrefix + zero, ": a zero byte in the header"));
  }
  HeaderReader reader(path);
  Json::sax_parse(header.begin(), header.end(), &reader);
  data_begin_ = kPrefix + length;
  check_extents(path, data_begin_, all.size() - data_begin_, reader.entries);
  entries_ = std::move(reader.entries);
  metadata_ = std::move(reader.metadata);
  for (std::size_t i = 0; i < entries_.size(); ++i) index_[entries_[i].name] = i;
}

Tensor SafetensorsFile::load(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    std::vector<std::string> names;
    for (const SafetensorsEntry& entry : entries_) names.push_back(entry.name);
    throw IoError(str(file_->path(), ": no tensor '", name, "'", did_you_mean(name, names)));
  }
  const SafetensorsEntry& entry = entries_[found->second];
  if (!entry.supported) {
    throw IoError(str(file_->path(), ":", data_begin_ + entry.begin, ": tensor '", name, "' is ",
                      entry.type, "; only F32, F64, BF16, F16, I32, I64 and U8 can be loaded"));
  }
  return io::tensor_in_file(file_, data_begin_ + entry.begin, entry.shape, entry.dtype);
}

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const std::pair<std::string, Tensor>*> order;
  std::set<std::string> names;
  for (const auto& item : tensors) {
    const auto& [name, tensor] = item;
    if (name == kMetadata || !names.insert(name).second || !tensor.defined()) {
      throw IoError(str(path, ": tensor '", io::printable(name), "' ",
                        tensor.defined() ? "is given twice or reserved" : "is undefined"));
    }
    order.push_back(&item);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return dtype_size(a->second.dtype()) > dtype_size(b->second.dtype());
  });

  std::string header = "{";
  if (!metadata.empty()) {
    header += str("\"", kMetadata, "\":{");
    for (const auto& [key, value] : metadata) {
      if (header.back() != '{') header += ',';
      header += quoted(path, key) + ":" + quoted(path, value);
    }
    header += "}";
  }
  std::uint64_t offset = 0;
  for (const auto* item : order) {
    const auto& [name, tensor] = *item;
    if (header.size() > 1) header += ',';
    std::string extents;
    for (int axis = 0; axis < tensor.rank(); ++axis) {
      extents += str(axis > 0 ? "," : "", tensor.dim(axis));
    }
    const std::uint64_t end = offset + tensor.nbytes();
    header += str(quoted(path, name), ":{\"dtype\":\"", type_name(tensor.dtype()), "\",\"shape\":[",
                  extents, "],\"data_offsets\":[", offset, ",", end, "]}");
    offset = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // aligns the data
  if (header.size() > kMaxHeader) {
    throw IoError(str(path, ": a header of ", header.size(), " bytes; ", kMaxHeader, " allowed"));
  }

  AtomicFile file(path);
  char length[kPrefix];
  for (std::size_t i = 0; i < kPrefix; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
  file.write(length, kPrefix);
  file.write(header);
  for (const auto* item : order) {
    const Tensor values = item->second.to(Device{}).contiguous();
    if (values.nbytes() > 0) file.write(values.raw(), values.nbytes());
  }
  file.commit();
}

}  // namespace adder

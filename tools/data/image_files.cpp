#include "tools/data/image_files.h"

#include <algorithm>
#include <filesystem>

#include "engine/text/counted.h"
#include "tools/data/file_reader.h"

namespace adder::tools {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kClasses = 10;
constexpr std::uint32_t kImageMagic = 2051;  // unsigned bytes in three dimensions
constexpr std::uint32_t kLabelMagic = 2049;  // in one
constexpr std::int64_t kMnistSide = 28;
constexpr std::int64_t kCifarPixels = 1024;
constexpr std::int64_t kCifarRecord = 1 + 3 * kCifarPixels;

std::uint32_t big_endian(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<std::uint8_t>(bytes[at + i]);
  return value;
}

// Checks magic number and length; returns the extents.
std::vector<std::int64_t> idx_extents(std::string_view bytes, const std::string& name,
                                      std::uint32_t magic, std::size_t rank) {
  const std::size_t header = 4 + 4 * rank;
  if (bytes.size() < header) {
    throw IoError(
        str(name, ":", bytes.size(), ": the file ends within its header of ", header, " bytes"));
  }
  const std::uint32_t found = big_endian(bytes, 0);
  if (found != magic) {
    throw IoError(str(name, ":0: the magic number is ", found, ", an IDX file of ",
                      rank == 1 ? "labels" : "images", " starts with ", magic));
  }
  std::vector<std::int64_t> extents;
  for (std::size_t i = 0; i < rank; ++i) extents.push_back(big_endian(bytes, 4 + 4 * i));
  return extents;
}

void check_length(std::string_view bytes, const std::string& name, std::size_t header,
                  std::int64_t content) {
  const auto found = static_cast<std::int64_t>(bytes.size() - header);
  if (found == content) return;
  throw IoError(str(name, ":", bytes.size(), ": ", counted(found, "byte"),
                    found == 1 ? " follows" : " follow", " the header, which announces ", content,
                    found < content ? " (the file is cut short)" : ""));
}

void check_label(std::uint8_t label, const std::string& name, std::int64_t offset) {
  if (label >= kClasses) {
    throw IoError(
        str(name, ":", offset, ": the label is ", int{label}, ", must be below ", kClasses));
  }
}

// PIL's fixed-point weights.
std::uint8_t grey(std::uint8_t red, std::uint8_t green, std::uint8_t blue) {
  return static_cast<std::uint8_t>((19595U * red + 38470U * green + 7471U * blue + 0x8000U) >> 16U);
}

std::string found_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    names.push_back(entry.path().filename().string());
  }
  if (names.empty()) return "the folder is empty";
  std::sort(names.begin(), names.end());
  std::string text = "the folder has ";
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 6); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return text + (names.size() > 6 ? ", …" : "");
}

void require_folder(const std::string& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) throw IoError(str(folder, ": no such folder"));
}

// The path of `name`, or of its packed form.
std::string find_file(const std::string& folder, const std::string& name) {
  const fs::path plain = fs::path(folder) / name;
  for (const std::string& path : {plain.string(), plain.string() + ".xz"}) {
    if (fs::exists(path)) return path;
  }
  if (fs::exists(plain.string() + ".gz")) {
    throw IoError(str(plain.string(), ".gz: gzip is not read; unpack the file (gzip -d)"));
  }
  throw IoError(str(folder, ": ", name, " (or ", name, ".xz) is missing; ", found_names(folder)));
}

}  // namespace

Images parse_idx(std::string_view images, const std::string& images_name, std::string_view labels,
                 const std::string& labels_name) {
  const auto extents = idx_extents(images, images_name, kImageMagic, 3);
  if (extents[1] != kMnistSide || extents[2] != kMnistSide) {
    throw IoError(str(images_name, ":8: images of ", extents[1], " x ", extents[2], " pixels, ",
                      kMnistSide, " x ", kMnistSide, " are expected"));
  }
  if (extents[0] == 0) throw IoError(str(images_name, ":4: the file holds no images"));
  const std::int64_t positions = kMnistSide * kMnistSide;
  check_length(images, images_name, 16, extents[0] * positions);
  const std::int64_t count = idx_extents(labels, labels_name, kLabelMagic, 1)[0];
  if (count != extents[0]) {
    throw IoError(str(labels_name, ":4: ", counted(count, "label"), " for the ",
                      counted(extents[0], "image"), " of ", images_name));
  }
  check_length(labels, labels_name, 8, count);
  Images result;
  result.count = count;
  result.positions = positions;
  result.pixels.assign(images.begin() + 16, images.end());
  result.labels.assign(labels.begin() + 8, labels.end());
  for (std::int64_t i = 0; i < count; ++i) {
    check_label(result.labels[static_cast<std::size_t>(i)], labels_name, 8 + i);
  }
  return result;
}

void append_cifar10(std::string_view records, const std::string& name, bool colour,
                    Images& images) {
  const auto size = static_cast<std::int64_t>(records.size());
  if (size == 0) throw IoError(str(name, ":0: the file is empty"));
  if (size % kCifarRecord != 0) {
    throw IoError(str(name, ":", size, ": the length is no multiple of the ", kCifarRecord,
                      " bytes of a record (", counted(size / kCifarRecord, "record"), " and ",
                      counted(size % kCifarRecord, "byte"), ")"));
  }
  images.positions = kCifarPixels;
  images.channels = colour ? 3 : 1;
  images.pixels.reserve(images.pixels.size() +
                        static_cast<std::size_t>(size / kCifarRecord * kCifarPixels) *
                            (colour ? 3 : 1));
  for (std::int64_t at = 0; at < size; at += kCifarRecord) {
    const auto* record = reinterpret_cast<const std::uint8_t*>(records.data()) + at;
    check_label(record[0], name, at);
    images.labels.push_back(record[0]);
    const std::uint8_t* red = record + 1;
    const std::uint8_t* green = red + kCifarPixels;
    const std::uint8_t* blue = green + kCifarPixels;
    for (std::int64_t p = 0; p < kCifarPixels; ++p) {
      if (colour) {
        images.pixels.insert(images.pixels.end(), {red[p], green[p], blue[p]});
      } else {
        images.pixels.push_back(grey(red[p], green[p], blue[p]));
      }
    }
    ++images.count;
  }
}

Images read_mnist(const std::string& folder, bool test) {
  require_folder(folder);
  const std::string stem = test ? "t10k" : "train";
  const std::string images = find_file(folder, stem + "-images-idx3-ubyte");
  const std::string labels = find_file(folder, stem + "-labels-idx1-ubyte");
  return parse_idx(read_text_file(images), images, read_text_file(labels), labels);
}

Images read_cifar10(const std::string& folder, bool test, bool colour) {
  require_folder(folder);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    if (name.ends_with(".xz")) name.erase(name.size() - 3);
    const bool wanted = test ? name.starts_with("test")
                             : name.starts_with("data_batch_") || name.starts_with("train_batch_");
    if (wanted && name.ends_with(".bin")) names.push_back(name);
  }
  if (names.empty()) {
    throw IoError(str(folder, ": no ", test ? "test*.bin" : "data_batch_*.bin or train_batch_*.bin",
                      " (or .bin.xz); ", found_names(folder)));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());  // plain and packed
  Images images;
  for (const std::string& name : names) {
    const std::string path = find_file(folder, name);
    append_cifar10(read_text_file(path), path, colour, images);
  }
  return images;
}

}  // namespace adder::tools

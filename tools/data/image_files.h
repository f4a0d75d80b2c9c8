// Images with classes in the files of MNIST (IDX) and CIFAR-10 (binary records), plain or xz.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace adder::tools {

// Pixels as the files hold them: (count, positions, channels) in row-major order.
struct Images {
  std::int64_t count = 0;
  std::int64_t positions = 0;
  std::int64_t channels = 1;
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;  // 0 … 9
};

// An IDX file of images (magic 2051) and one of their labels (magic 2049), 28 x 28 pixels each.
// `images_name` and `labels_name` are the paths in messages. Throws IoError for another magic
// number or size, a length that is not what the header says, counts that differ, a label above 9.
Images parse_idx(std::string_view images, const std::string& images_name, std::string_view labels,
                 const std::string& labels_name);

// Appends records of CIFAR-10: a label, then 1024 bytes each of red, green and blue. With `colour`
// false they become grey as in PIL (ITU-R 601: L = 0.299 R + 0.587 G + 0.114 B, rounded). Throws
// IoError for a length that is no multiple of 3073, an empty file and a label above 9.
void append_cifar10(std::string_view records, const std::string& name, bool colour, Images& images);

// The training or the test files of a folder under their published names:
//   mnist    train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-…
//   cifar10  data_batch_*.bin or train_batch_*.bin, and test*.bin
// each with or without .xz. Throws IoError naming what is missing.
Images read_mnist(const std::string& folder, bool test);
Images read_cifar10(const std::string& folder, bool test, bool colour);

}  // namespace adder::tools

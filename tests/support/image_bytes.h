// Files of MNIST and CIFAR-10 as byte strings, small and of known content.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace adder::test {

inline std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) {
    bytes += static_cast<char>((value >> static_cast<unsigned>(shift)) & 255U);
  }
  return bytes;
}

// Pixel p of image i.
inline std::uint8_t test_pixel(std::int64_t i, std::int64_t p) {
  return static_cast<std::uint8_t>((i * 37 + p * 11) % 256);
}

inline std::string idx_images(std::uint32_t count) {
  std::string bytes = big_endian(2051) + big_endian(count) + big_endian(28) + big_endian(28);
  for (std::uint32_t i = 0; i < count; ++i) {
    for (int p = 0; p < 784; ++p) bytes += static_cast<char>(test_pixel(i, p));
  }
  return bytes;
}

inline std::string idx_labels(std::uint32_t count) {
  std::string bytes = big_endian(2049) + big_endian(count);
  for (std::uint32_t i = 0; i < count; ++i) bytes += static_cast<char>(i % 10);
  return bytes;
}

// One record of CIFAR-10 whose three planes hold one value each.
inline std::string cifar_record(int label, int red, int green, int blue) {
  return std::string(1, static_cast<char>(label)) + std::string(1024, static_cast<char>(red)) +
         std::string(1024, static_cast<char>(green)) + std::string(1024, static_cast<char>(blue));
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A folder of MNIST's four files, in place.
inline void write_mnist(const std::string& folder, std::uint32_t train, std::uint32_t test) {
  write_bytes(folder + "/train-images-idx3-ubyte", idx_images(train));
  write_bytes(folder + "/train-labels-idx1-ubyte", idx_labels(train));
  write_bytes(folder + "/t10k-images-idx3-ubyte", idx_images(test));
  write_bytes(folder + "/t10k-labels-idx1-ubyte", idx_labels(test));
}

}  // namespace adder::test

#include <algorithm>
#include <doctest/doctest.h>
#include <filesystem>

#include "engine/error.h"
#include "tests/support/image_bytes.h"
#include "tests/support/temp_directory.h"
#include "tools/data/image_files.h"

using adder::IoError;
using adder::test::big_endian;
using adder::test::cifar_record;
using adder::test::idx_images;
using adder::test::idx_labels;
using adder::test::TempDirectory;
using adder::test::write_bytes;
using adder::tools::Images;

namespace {

template <typename Call>
std::string io_error(Call call) {
  try {
    call();
  } catch (const IoError& error) {
    return error.what();
  }
  FAIL("no IoError was thrown");
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

std::string idx_error(const std::string& images, const std::string& labels) {
  return io_error([&] { adder::tools::parse_idx(images, "im", labels, "lab"); });
}

Images cifar(const std::string& bytes, bool colour) {
  Images images;
  adder::tools::append_cifar10(bytes, "c.bin", colour, images);
  return images;
}

}  // namespace

TEST_CASE("IDX files give their pixels and labels") {
  const Images images = adder::tools::parse_idx(idx_images(12), "im", idx_labels(12), "lab");
  CHECK(images.count == 12);
  CHECK(images.positions == 784);
  CHECK(images.channels == 1);
  REQUIRE(images.pixels.size() == 12 * 784);
  for (const std::int64_t i : {0, 5, 11}) {
    for (const std::int64_t p : {0, 1, 783}) {
      CHECK(images.pixels[static_cast<std::size_t>(i * 784 + p)] == adder::test::test_pixel(i, p));
    }
    CHECK(images.labels[static_cast<std::size_t>(i)] == i % 10);
  }
}

TEST_CASE("every cut of an IDX file is refused") {
  const std::string images = idx_images(2);
  const std::string labels = idx_labels(2);
  for (std::size_t length = 0; length < images.size(); length += length < 20 ? 1 : 97) {
    CHECK_THROWS_AS(adder::tools::parse_idx(images.substr(0, length), "im", labels, "lab"),
                    IoError);
  }
  for (std::size_t length = 0; length < labels.size(); ++length) {
    CHECK_THROWS_AS(adder::tools::parse_idx(images, "im", labels.substr(0, length), "lab"),
                    IoError);
  }
  CHECK(contains(idx_error(images.substr(0, 9), labels), "im:9: the file ends within its header"));
  CHECK(contains(idx_error(images.substr(0, 1000), labels), "984 bytes follow the header"));
  CHECK(contains(idx_error(images.substr(0, 1000), labels), "announces 1568"));
  CHECK(contains(idx_error(images + "x", labels), "1569 bytes follow"));
}

TEST_CASE("IDX headers that do not fit are refused with their numbers") {
  CHECK(contains(idx_error(idx_labels(20), idx_labels(2)), "im:0: the magic number is 2049"));
  CHECK(contains(idx_error(idx_images(2), idx_images(2)), "lab:0: the magic number is 2051"));
  CHECK(contains(idx_error(idx_images(2), idx_labels(3)), "3 labels for the 2 images of im"));
  CHECK(contains(idx_error(idx_images(0), idx_labels(0)), "holds no images"));
  const std::string wide =
      big_endian(2051) + big_endian(1) + big_endian(28) + big_endian(29) + std::string(812, 'x');
  CHECK(contains(idx_error(wide, idx_labels(1)), "28 x 29"));
  // A count whose product with the size of an image would not fit 32 bits.
  const std::string huge =
      big_endian(2051) + big_endian(0xFFFFFFFFU) + big_endian(28) + big_endian(28);
  CHECK(contains(idx_error(huge, idx_labels(1)), "announces 3367254359280"));
  std::string labels = idx_labels(2);
  labels.back() = 10;
  CHECK(contains(idx_error(idx_images(2), labels), "lab:9: the label is 10"));
}

TEST_CASE("CIFAR-10 records become interleaved colours or PIL's grey") {
  const std::string bytes = cifar_record(3, 10, 20, 30) + cifar_record(9, 255, 255, 255) +
                            cifar_record(0, 255, 0, 0) + cifar_record(1, 0, 255, 0) +
                            cifar_record(2, 0, 0, 255);
  const Images colour = cifar(bytes, true);
  CHECK(colour.count == 5);
  CHECK(colour.positions == 1024);
  CHECK(colour.channels == 3);
  REQUIRE(colour.pixels.size() == 5 * 3072);
  CHECK(colour.pixels[3069] == 10);
  CHECK(colour.pixels[3070] == 20);
  CHECK(colour.pixels[3071] == 30);
  CHECK(colour.labels == std::vector<std::uint8_t>{3, 9, 0, 1, 2});
  const Images grey = cifar(bytes, false);
  CHECK(grey.channels == 1);
  REQUIRE(grey.pixels.size() == 5 * 1024);
  // What PIL's convert("L") gives for these colours.
  const int expected[] = {18, 255, 76, 150, 29};
  for (std::size_t i = 0; i < 5; ++i) CHECK(grey.pixels[i * 1024 + 7] == expected[i]);
}

TEST_CASE("CIFAR-10 files of a wrong length or label are refused") {
  const std::string record = cifar_record(1, 2, 3, 4);
  CHECK(contains(io_error([&] { cifar("", false); }), "c.bin:0: the file is empty"));
  CHECK(contains(io_error([&] { cifar(record + record.substr(0, 100), true); }),
                 "1 record and 100 bytes"));
  CHECK(contains(io_error([&] { cifar(record + cifar_record(10, 0, 0, 0), true); }),
                 "c.bin:3073: the label is 10"));
}

TEST_CASE("folders are read under the published names, what is missing is named") {
  const TempDirectory folder;
  const std::string& path = folder.path();
  const auto mnist = [&](bool test) { return adder::tools::read_mnist(path, test); };
  CHECK(contains(io_error([&] { mnist(false); }), "train-images-idx3-ubyte"));
  CHECK(contains(io_error([&] { mnist(false); }), "the folder is empty"));
  CHECK(
      contains(io_error([&] { adder::tools::read_mnist(path + "/no", false); }), "no such folder"));
  adder::test::write_mnist(path, 12, 3);
  CHECK(mnist(false).count == 12);
  CHECK(mnist(true).count == 3);
  std::filesystem::remove(path + "/t10k-labels-idx1-ubyte");
  CHECK(contains(io_error([&] { mnist(true); }), "t10k-labels-idx1-ubyte"));
  write_bytes(path + "/t10k-labels-idx1-ubyte.gz", "x");
  CHECK(contains(io_error([&] { mnist(true); }), "gzip -d"));
  write_bytes(path + "/t10k-labels-idx1-ubyte.xz", "not packed");
  CHECK(contains(io_error([&] { mnist(true); }), "not in xz format"));

  const auto cifar10 = [&](bool test) { return adder::tools::read_cifar10(path, test, false); };
  CHECK(contains(io_error([&] { cifar10(false); }), "no data_batch_*.bin"));
  CHECK(contains(io_error([&] { cifar10(true); }), "no test*.bin"));
  write_bytes(path + "/data_batch_2.bin", cifar_record(2, 0, 0, 0));
  write_bytes(path + "/data_batch_1.bin", cifar_record(1, 0, 0, 0) + cifar_record(5, 0, 0, 0));
  write_bytes(path + "/test_batch.bin", cifar_record(7, 0, 0, 0));
  CHECK(cifar10(false).labels == std::vector<std::uint8_t>{1, 5, 2});
  CHECK(cifar10(true).labels == std::vector<std::uint8_t>{7});
}

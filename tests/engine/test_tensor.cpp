#include <cstring>

#include "tests/engine/kernel_test.h"

using adder::BFloat16;
using adder::Device;
using adder::Dtype;
using adder::DtypeError;
using adder::Float16;
using adder::Shape;
using adder::ShapeError;
using adder::Storage;
using adder::Tensor;

namespace {

Tensor counting(Shape shape, Dtype dtype = Dtype::f32) {
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  return Tensor::from(shape, values).to(dtype);
}

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::uint16_t bf16(float value) {
  return BFloat16(value).bits;
}
std::uint16_t f16(float value) {
  return Float16(value).bits;
}
float from_bf16(std::uint16_t bits) {
  BFloat16 value;
  value.bits = bits;
  return static_cast<float>(value);
}
float from_f16(std::uint16_t bits) {
  Float16 value;
  value.bits = bits;
  return static_cast<float>(value);
}

}  // namespace

TEST_CASE("shapes compare, count and print") {
  CHECK(Shape{2, 3}.numel() == 6);
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{2, 0, 5}.numel() == 0);
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK(Shape{2, 3} != Shape{2, 3, 1});
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{2, 64, 16}.to_string() == "[2, 64, 16]");
  CHECK(Shape{}.to_string() == "[]");
  CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1, 1, 1}), ShapeError);
}

TEST_CASE("creation") {
  CHECK_FALSE(Tensor().defined());
  CHECK_THROWS_AS(Tensor().raw(), ShapeError);
  const Tensor zeros = Tensor::zeros({3, 4}, Dtype::f64);
  for (const double v : zeros.to_vector()) CHECK(v == 0);
  CHECK(Tensor::full({2}, 2.5).to_vector() == std::vector<double>{2.5, 2.5});
  CHECK(Tensor::full({}, 7, Dtype::i32).item() == 7);
  CHECK(Tensor::empty({0, 4}).numel() == 0);
  CHECK_THROWS_AS(Tensor::empty({-1}), ShapeError);
  CHECK_THROWS_AS(Tensor::from({3}, std::vector<float>{1, 2}), ShapeError);
  CHECK_THROWS_AS(zeros.data<float>(), DtypeError);
  CHECK(reinterpret_cast<std::uintptr_t>(zeros.raw()) % 64 == 0);
}

TEST_CASE("storage views") {
  const auto storage = Storage::allocate(64, Device{});
  const Tensor all = Tensor::from_storage(storage, 0, {16}, Dtype::f32);
  all.fill(0);
  const Tensor part = Tensor::from_storage(storage, 16, {2, 3}, Dtype::f32);
  part.fill(1);
  CHECK(all.item(3) == 0);
  CHECK(all.item(4) == 1);
  CHECK(all.item(9) == 1);
  CHECK(all.item(10) == 0);
  CHECK_THROWS_AS(Tensor::from_storage(storage, 60, {2}, Dtype::f32), ShapeError);
  CHECK_THROWS_AS(Tensor::from_storage(storage, 2, {2}, Dtype::f32), ShapeError);
  CHECK_THROWS_AS(Tensor::from_storage(storage, 4, {std::int64_t{1} << 62}, Dtype::f32),
                  ShapeError);
  CHECK_THROWS_AS(Tensor::from_storage(storage, 128, {0}, Dtype::f32), ShapeError);
}

TEST_CASE("slices, selections and transposes share memory") {
  const Tensor t = counting({2, 3, 4});
  CHECK(t.stride(0) == 12);
  CHECK(t.dim(-1) == 4);
  const Tensor columns = t.slice(2, 1, 3);
  CHECK(columns.shape() == Shape{2, 3, 2});
  CHECK_FALSE(columns.is_contiguous());
  CHECK(columns.to_vector() == std::vector<double>{1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22});
  CHECK(t.select(1, 2).to_vector() == std::vector<double>{8, 9, 10, 11, 20, 21, 22, 23});
  CHECK(t.select(0, 1).select(0, 0).select(0, 3).item() == 15);
  const Tensor flipped = t.transpose(0, -1);
  CHECK(flipped.shape() == Shape{4, 3, 2});
  CHECK(flipped.item(1) == 12);
  CHECK(flipped.item(2) == 4);
  CHECK(flipped.contiguous().to_vector() == flipped.to_vector());
  columns.fill(-1);
  CHECK(t.item(1) == -1);
  CHECK(t.item(0) == 0);
  CHECK(t.item(3) == 3);
  CHECK(t.slice(0, 1, 1).numel() == 0);
  CHECK(t.slice(0, 1, 1).to_vector().empty());
  CHECK_THROWS_AS(t.slice(0, 1, 3), ShapeError);
  CHECK_THROWS_AS(t.slice(0, -1, 1), ShapeError);
  CHECK_THROWS_AS(t.slice(3, 0, 1), ShapeError);
  CHECK_THROWS_AS(t.select(0, 2), ShapeError);
  CHECK_THROWS_AS(t.transpose(0, 3), ShapeError);
  CHECK_THROWS_AS(t.item(24), ShapeError);
}

TEST_CASE("reshape") {
  const Tensor t = counting({2, 6});
  const Tensor view = t.reshape({3, -1});
  CHECK(view.shape() == Shape{3, 4});
  CHECK(view.raw() == t.raw());
  const Tensor copy = t.transpose(0, 1).reshape({12});
  CHECK(copy.raw() != t.raw());
  CHECK(copy.to_vector() == std::vector<double>{0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11});
  CHECK(t.slice(0, 1, 2).reshape({2, 3}).raw() == t.slice(0, 1, 2).raw());
  CHECK(counting({1}).reshape({}).rank() == 0);
  CHECK(Tensor::empty({0, 3}).reshape({3, 0}).shape() == Shape{3, 0});
  CHECK_THROWS_AS(t.reshape({5, -1}), ShapeError);
  CHECK_THROWS_AS(t.reshape({13}), ShapeError);
  CHECK_THROWS_AS(t.reshape({-1, -1}), ShapeError);
  CHECK_THROWS_AS(t.reshape({-3, -4}), ShapeError);
  CHECK_THROWS_AS(Tensor::empty({0, 3}).reshape({0, -1}), ShapeError);
}

TEST_CASE("flatten_rows keeps the last axis and copies only if it must") {
  const Tensor t = counting({2, 3, 4});
  CHECK(t.flatten_rows().shape() == Shape{6, 4});
  CHECK(t.flatten_rows().raw() == t.raw());
  const Tensor columns = t.slice(2, 1, 3);
  CHECK(columns.flatten_rows().raw() == columns.raw());
  CHECK(columns.flatten_rows().shape() == Shape{6, 2});
  CHECK(columns.flatten_rows().to_vector() == columns.to_vector());
  const Tensor rows = t.slice(1, 1, 3);
  CHECK(rows.flatten_rows().raw() != rows.raw());
  CHECK(rows.flatten_rows().to_vector() == rows.to_vector());
  const Tensor middle = t.slice(1, 1, 2);
  CHECK(middle.flatten_rows().to_vector() == middle.to_vector());
  CHECK(t.slice(0, 1, 2).flatten_rows().to_vector() == t.slice(0, 1, 2).to_vector());
  CHECK(t.transpose(0, 2).flatten_rows().to_vector() == t.transpose(0, 2).to_vector());
  CHECK(counting({5}).flatten_rows().shape() == Shape{1, 5});
  CHECK(counting({}).flatten_rows().shape() == Shape{1, 1});
  CHECK(Tensor::empty({0, 3, 4}).flatten_rows().shape() == Shape{0, 4});
}

TEST_CASE("copies and arithmetic through strides") {
  const Tensor t = counting({3, 4});
  const Tensor target = Tensor::zeros({4, 3}, Dtype::f64);
  target.transpose(0, 1).copy_from(t);
  CHECK(target.to_vector() == t.transpose(0, 1).to_vector());
  const Tensor copy = t.clone();
  copy.fill(0);
  CHECK(t.item(5) == 5);
  CHECK(t.to(Dtype::f32).raw() == t.raw());
  const Tensor sum = Tensor::full({3, 4}, 1);
  sum.transpose(0, 1).slice(0, 1, 3).add_(t.transpose(0, 1).slice(0, 1, 3));
  CHECK(sum.to_vector() == std::vector<double>{1, 2, 3, 1, 1, 6, 7, 1, 1, 10, 11, 1});
  sum.slice(1, 0, 1).scale_(-2);
  CHECK(sum.item(0) == -2);
  CHECK(sum.item(1) == 2);
  CHECK(sum.item(4) == -2);
  CHECK_THROWS_AS(sum.add_(counting({4, 3})), ShapeError);
  CHECK_THROWS_AS(sum.add_(counting({3, 4}, Dtype::f64)), DtypeError);
  CHECK_THROWS_AS(counting({2}, Dtype::bf16).scale_(2), DtypeError);
  CHECK_THROWS_AS(t.copy_from(counting({12})), ShapeError);
}

TEST_CASE("conversions between all element types") {
  const Dtype all[] = {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16,
                       Dtype::i32, Dtype::i64, Dtype::u8};
  const Tensor values = Tensor::from({4}, std::vector<float>{0, 1, 100, 127});
  for (const Dtype a : all) {
    for (const Dtype b : all) {
      INFO(adder::dtype_name(a) << " to " << adder::dtype_name(b));
      CHECK(values.to(a).to(b).to_vector() == values.to_vector());
    }
  }
  CHECK(Tensor::from({1}, std::vector<double>{1.0 + 0x1p-40}).to(Dtype::f32).item() == 1);
}

TEST_CASE("bfloat16 rounds to nearest even and keeps NaN, infinities and subnormals") {
  CHECK(bf16(1.0F) == 0x3f80);
  CHECK(bf16(-2.0F) == 0xc000);
  CHECK(bf16(0.0F) == 0);
  CHECK(bf16(-0.0F) == 0x8000);
  CHECK(bf16(1.0F + 0x1p-8F) == 0x3f80);             // a tie, to even
  CHECK(bf16(1.0F + 3 * 0x1p-8F) == 0x3f82);         // a tie, to even
  CHECK(bf16(1.0F + 0x1p-8F + 0x1p-20F) == 0x3f81);  // just above a tie
  CHECK(bf16(1.0F + 0x1p-8F - 0x1p-20F) == 0x3f80);  // just below
  CHECK(bf16(kInf) == 0x7f80);
  CHECK(bf16(-kInf) == 0xff80);
  CHECK(bf16(std::numeric_limits<float>::max()) == 0x7f80);  // beyond the largest: infinity
  CHECK(std::isnan(from_bf16(bf16(kNan))));
  CHECK(std::isnan(from_bf16(bf16(std::bit_cast<float>(0x7f800001U)))));  // payload in low bits
  CHECK(std::isnan(from_bf16(bf16(std::bit_cast<float>(0xffffffffU)))));
  CHECK(bf16(std::bit_cast<float>(0x00010000U)) == 1);  // a subnormal
  CHECK(from_bf16(1) == std::bit_cast<float>(0x00010000U));
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_bf16(static_cast<std::uint16_t>(bits));
    if (!std::isnan(value)) REQUIRE(bf16(value) == bits);
  }
}

TEST_CASE("float16 rounds to nearest even and keeps NaN, infinities and subnormals") {
  CHECK(f16(1.0F) == 0x3c00);
  CHECK(f16(-0.0F) == 0x8000);
  CHECK(f16(65504.0F) == 0x7bff);
  CHECK(f16(65519.996F) == 0x7bff);
  CHECK(f16(65520.0F) == 0x7c00);
  CHECK(f16(-1e10F) == 0xfc00);
  CHECK(f16(kInf) == 0x7c00);
  CHECK(std::isnan(from_f16(f16(kNan))));
  CHECK(f16(1.0F + 0x1p-11F) == 0x3c00);      // a tie, to even
  CHECK(f16(1.0F + 3 * 0x1p-11F) == 0x3c02);  // a tie, to even
  CHECK(f16(0x1p-24F) == 1);                  // the smallest subnormal
  CHECK(f16(0x1p-25F) == 0);                  // a tie with zero, to even
  CHECK(f16(std::nextafter(0x1p-25F, 1.0F)) == 1);
  CHECK(f16(0x1.ffcp-15F) == 0x0400);  // rounds up into the normal numbers
  CHECK(from_f16(0x0001) == 0x1p-24F);
  CHECK(from_f16(0x8001) == -0x1p-24F);
  CHECK(from_f16(0xfc00) == -kInf);
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_f16(static_cast<std::uint16_t>(bits));
    if (!std::isnan(value)) REQUIRE(f16(value) == bits);
  }
  // Between two neighbours the nearer one is chosen, over the whole range.
  for (std::uint16_t bits = 0; bits < 0x7bff; bits = static_cast<std::uint16_t>(bits + 7)) {
    const double low = from_f16(bits);
    const double high = from_f16(static_cast<std::uint16_t>(bits + 1));
    REQUIRE(f16(static_cast<float>(low + 0.45 * (high - low))) == bits);
    REQUIRE(f16(static_cast<float>(low + 0.55 * (high - low))) == bits + 1);
  }
}

TEST_CASE("memory is counted, reused and released") {
  adder::release_cached_memory(Device{});
  const auto before = adder::memory_stats(Device{});
  CHECK(before.cached_bytes == 0);
  const void* address = nullptr;
  {
    const Tensor t = Tensor::empty({1000, 1000});
    const auto held = adder::memory_stats(Device{});
    CHECK(held.current_bytes >= before.current_bytes + 4000000);
    CHECK(held.current_bytes <= before.current_bytes + 4600000);  // size classes waste 1/8 at most
    CHECK(held.peak_bytes >= held.current_bytes);
    const Tensor view = t.slice(0, 0, 10);
    CHECK(adder::memory_stats(Device{}).current_bytes == held.current_bytes);
    CHECK_FALSE(t.shares_memory_only_here());
    address = t.raw();
  }
  const auto freed = adder::memory_stats(Device{});
  CHECK(freed.current_bytes == before.current_bytes);
  CHECK(freed.cached_bytes >= 4000000);
  {
    const Tensor again = Tensor::empty({999, 1000});
    CHECK(again.raw() == address);
    CHECK(adder::memory_stats(Device{}).cached_bytes == 0);
  }
  adder::reset_peak_memory(Device{});
  CHECK(adder::memory_stats(Device{}).peak_bytes == before.current_bytes);
  adder::release_cached_memory(Device{});
  CHECK(adder::memory_stats(Device{}).cached_bytes == 0);
}

TEST_CASE("impossible requests and absent devices are errors") {
#ifdef __SANITIZE_ADDRESS__
  MESSAGE("skipped: the address sanitizer ends the program where malloc would return null");
#else
  const auto before = adder::memory_stats(Device{}).current_bytes;
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 56}), adder::DeviceError);
  CHECK(adder::memory_stats(Device{}).current_bytes == before);
#endif
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 62}), ShapeError);  // 2^64 bytes: overflow
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 40, std::int64_t{1} << 40}), ShapeError);
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 40, std::int64_t{1} << 40, 0}), ShapeError);
  CHECK_THROWS_AS(Tensor::empty({2}, Dtype::f32, Device{adder::DeviceKind::cuda, 99}),
                  adder::DeviceError);
}

// Element types and the conversions between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

// On the device too, when nvcc compiles.
#ifdef __CUDACC__
#define ADDER_HOST_DEVICE __host__ __device__
#else
#define ADDER_HOST_DEVICE
#endif

namespace adder {

enum class Dtype : std::uint8_t { f32, f64, bf16, f16, i32, i64, u8 };

std::size_t dtype_size(Dtype dtype);  // bytes of one element
const char* dtype_name(Dtype dtype);  // "float32", "bfloat16", …
bool is_floating(Dtype dtype);

// bfloat16: the upper half of a float32. Arithmetic is done in float32; this type only stores.
struct BFloat16 {
  std::uint16_t bits = 0;
  BFloat16() = default;
  // Rounds to nearest, ties to even; NaN stays NaN.
  ADDER_HOST_DEVICE explicit BFloat16(float value) {
    std::uint32_t u = 0;  // memcpy, as std::bit_cast is not for nvcc's device code
    std::memcpy(&u, &value, sizeof u);
    if ((u & 0x7fffffffU) > 0x7f800000U) {
      bits = static_cast<std::uint16_t>((u >> 16) | 0x0040U);
    } else {
      bits = static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
    }
  }
  ADDER_HOST_DEVICE explicit operator float() const {
    const std::uint32_t u = static_cast<std::uint32_t>(bits) << 16;
    float value = 0;
    std::memcpy(&value, &u, sizeof value);
    return value;
  }
  ADDER_HOST_DEVICE explicit operator double() const {
    return static_cast<double>(static_cast<float>(*this));
  }
};

// IEEE binary16, for reading published half-precision weights.
struct Float16 {
  std::uint16_t bits = 0;
  Float16() = default;
  explicit Float16(float value) : bits(from_float(value)) {}
  explicit operator float() const { return to_float(bits); }
  explicit operator double() const { return static_cast<double>(to_float(bits)); }

 private:
  static std::uint16_t from_float(float value);
  static float to_float(std::uint16_t bits);
};

template <typename T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::f32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::f64;
};
template <>
struct DtypeOf<BFloat16> {
  static constexpr Dtype value = Dtype::bf16;
};
template <>
struct DtypeOf<Float16> {
  static constexpr Dtype value = Dtype::f16;
};
template <>
struct DtypeOf<std::int32_t> {
  static constexpr Dtype value = Dtype::i32;
};
template <>
struct DtypeOf<std::int64_t> {
  static constexpr Dtype value = Dtype::i64;
};
template <>
struct DtypeOf<std::uint8_t> {
  static constexpr Dtype value = Dtype::u8;
};

// Calls f with a value of the C++ type that `dtype` stores.
template <typename F>
void dispatch(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::f32:
      return f(float{});
    case Dtype::f64:
      return f(double{});
    case Dtype::bf16:
      return f(BFloat16{});
    case Dtype::f16:
      return f(Float16{});
    case Dtype::i32:
      return f(std::int32_t{});
    case Dtype::i64:
      return f(std::int64_t{});
    case Dtype::u8:
      return f(std::uint8_t{});
  }
}

template <typename T>
inline constexpr bool kIsHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

// An element as another type; to and from 16 bits by way of float32.
template <typename To, typename From>
ADDER_HOST_DEVICE To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (kIsHalf<To>) {
    return To(static_cast<float>(value));
  } else if constexpr (kIsHalf<From>) {
    return static_cast<To>(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace adder

// CUDA's short vectors, with the alignment that makes UBSan report a misaligned vector access.
#pragma once

#define SIMT_VECTORS(T, name, align2, align4)         \
  struct name##1 {                                    \
    T x;                                              \
  };                                                  \
  struct alignas(align2) name##2 {                    \
    T x, y;                                           \
  };                                                  \
  struct name##3 {                                    \
    T x, y, z;                                        \
  };                                                  \
  struct alignas(align4) name##4 {                    \
    T x, y, z, w;                                     \
  };                                                  \
  inline name##1 make_##name##1(T x) {                \
    return {x};                                       \
  }                                                   \
  inline name##2 make_##name##2(T x, T y) {           \
    return {x, y};                                    \
  }                                                   \
  inline name##3 make_##name##3(T x, T y, T z) {      \
    return {x, y, z};                                 \
  }                                                   \
  inline name##4 make_##name##4(T x, T y, T z, T w) { \
    return {x, y, z, w};                              \
  }                                                   \
  static_assert(sizeof(name##3) == 3 * sizeof(T), "no padding")

SIMT_VECTORS(unsigned char, uchar, 2, 4);
SIMT_VECTORS(short, short, 4, 8);
SIMT_VECTORS(unsigned short, ushort, 4, 8);
SIMT_VECTORS(int, int, 8, 16);
SIMT_VECTORS(unsigned int, uint, 8, 16);
SIMT_VECTORS(long long, longlong, 16, 16);
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16);
SIMT_VECTORS(float, float, 8, 16);
SIMT_VECTORS(double, double, 16, 16);
#undef SIMT_VECTORS

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  // Implicit, as in CUDA: a launch names plain numbers.
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

// What every kernel source starts with. The host compiles a source once for each set of these macros:
//   ELEMENT  the type T of most operands: float, bf16 or f16
//   OTHER    a second type U, where a source says it has one
//   ALIGNED  true: every row starts on 16 bytes and its width is a multiple of a chunk; false: any width
//   MODE     an integer, where a source says what it means
// No header is included: NVRTC then needs no include path, and conversions
// are the PTX instructions themselves (PTX ISA 9.0, "cvt").

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 { u16 bits; };
struct f16 { u16 bits; };

typedef ELEMENT T;
typedef OTHER U;

// A macro that NVRTC does not bring.
#define INFINITY_F __int_as_float(0x7f800000)

#define KERNEL extern "C" __global__ void

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float wide(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

// Rounds to nearest even.
template <class T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <> __device__ __forceinline__ f16 narrow<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// Two elements packed in 32 bits, the first in the low half.
template <class E> __device__ __forceinline__ float low(u32 pair);
template <class E> __device__ __forceinline__ float high(u32 pair);
template <class E> __device__ __forceinline__ u32 pack(float first, float second);
template <> __device__ __forceinline__ float low<bf16>(u32 pair) { return __uint_as_float(pair << 16); }
template <> __device__ __forceinline__ float high<bf16>(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
template <> __device__ __forceinline__ u32 pack<bf16>(float first, float second) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
template <> __device__ __forceinline__ float low<f16>(u32 pair) { return wide(f16{(u16)(pair & 0xffffu)}); }
template <> __device__ __forceinline__ float high<f16>(u32 pair) { return wide(f16{(u16)(pair >> 16)}); }
template <> __device__ __forceinline__ u32 pack<f16>(float first, float second) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

// Elements of one 16-byte access: a chunk.
template <class E> constexpr int CHUNK = 16 / sizeof(E);
constexpr int N = CHUNK<T>;

// A chunk as it lies in memory to its values, and back.
template <class E> struct Pack {
  static __device__ __forceinline__ void open(uint4 raw, float (&v)[8]) {
    v[0] = low<E>(raw.x), v[1] = high<E>(raw.x), v[2] = low<E>(raw.y), v[3] = high<E>(raw.y);
    v[4] = low<E>(raw.z), v[5] = high<E>(raw.z), v[6] = low<E>(raw.w), v[7] = high<E>(raw.w);
  }
  static __device__ __forceinline__ uint4 close(const float (&v)[8]) {
    return make_uint4(pack<E>(v[0], v[1]), pack<E>(v[2], v[3]), pack<E>(v[4], v[5]), pack<E>(v[6], v[7]));
  }
};
template <> struct Pack<float> {
  static __device__ __forceinline__ void open(uint4 raw, float (&v)[4]) {
    v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y);
    v[2] = __uint_as_float(raw.z), v[3] = __uint_as_float(raw.w);
  }
  static __device__ __forceinline__ uint4 close(const float (&v)[4]) {
    return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
  }
};

// Elements [at, at + N) of a row of `width` elements as they lie in memory; those beyond the row are zero.
template <class E = T> __device__ __forceinline__ uint4 fetch(const E* row, int at, int width) {
  if constexpr (ALIGNED) {
    return at < width ? *reinterpret_cast<const uint4*>(row + at) : make_uint4(0, 0, 0, 0);
  } else {
    float v[CHUNK<E>];
#pragma unroll
    for (int j = 0; j < CHUNK<E>; ++j) v[j] = at + j < width ? wide(row[at + j]) : 0.0f;
    return Pack<E>::close(v);
  }
}

// Stores a chunk; elements beyond the row are dropped.
template <class E = T> __device__ __forceinline__ void put(E* row, int at, int width, uint4 raw) {
  if constexpr (ALIGNED) {
    if (at < width) *reinterpret_cast<uint4*>(row + at) = raw;
  } else {
    float v[CHUNK<E>];
    Pack<E>::open(raw, v);
#pragma unroll
    for (int j = 0; j < CHUNK<E>; ++j)
      if (at + j < width) row[at + j] = narrow<E>(v[j]);
  }
}

// Sum over a warp, the same in every lane and in every run: a butterfly has a fixed order.
template <class V> __device__ __forceinline__ V warp_sum(V x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Sum over a block, the same in every thread. `sums` has a place for each warp and is not in use; it must not be
// written again before the next barrier.
template <class V> __device__ __forceinline__ V block_sum(V x, V* sums) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  V total = 0;
  for (u32 i = 0; i < blockDim.x / 32; ++i) total += sums[i];
  return total;
}

// Bits of |x|, which order as the numbers do with NaN above infinity: a maximum of them is exact in any order and
// does not lose a NaN.
__device__ __forceinline__ u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

__device__ __forceinline__ u32 magnitude(uint4 raw) {
  float v[N];
  Pack<T>::open(raw, v);
  u32 most = 0;
#pragma unroll
  for (int j = 0; j < N; ++j) most = max(most, magnitude(v[j]));
  return most;
}

// Raises `amax`, the bits of a non-negative float, to the largest magnitude of the warp; every lane must take part.
// `amax` may be null. No access once the warp's figure is known to be too small.
__device__ __forceinline__ void raise(u32* amax, u32 most) {
  if (amax == nullptr) return;
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) most = max(most, __shfl_xor_sync(0xffffffffu, most, offset));
  if (threadIdx.x % 32 == 0 && most > *reinterpret_cast<volatile u32*>(amax)) atomicMax(amax, most);
}

// Philox4x32-10 (Salmon et al. 2011); constants from Random123's philox.h. The twin is ops/philox.rs.
__device__ __forceinline__ uint4 philox(u64 block, uint2 step, uint2 key) {
  uint4 c = make_uint4((u32)block, (u32)(block >> 32), step.x, step.y);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    if (round > 0) key.x += 0x9E3779B9u, key.y += 0xBB67AE85u;
    const u32 ah = __umulhi(0xD2511F53u, c.x), al = 0xD2511F53u * c.x;
    const u32 bh = __umulhi(0xCD9E8D57u, c.z), bl = 0xCD9E8D57u * c.z;
    c = make_uint4(bh ^ c.y ^ key.x, bl, ah ^ c.w ^ key.y, al);
  }
  return c;
}

__device__ __forceinline__ u32 lane_of(uint4 words, u32 lane) {
  const u32 a = lane & 1 ? words.y : words.x, b = lane & 1 ? words.w : words.z;
  return lane & 2 ? b : a;
}

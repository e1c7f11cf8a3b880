// 8-bit floats with one scale a tensor: q = x ÷ scale, scale = largest magnitude ÷ the format's largest value, 1 for
// a tensor of zeros. MODE 0: e4m3, largest 448; 1: e5m2, largest 57,344 (Micikevicius et al. 2022, arXiv 2209.05433,
// table 1). T is a 16-bit type. The conversion instructions came with compute capability 8.9.
#if __CUDA_ARCH__ >= 890

constexpr float LARGEST = MODE == 0 ? 448.0f : 57344.0f;

// Two values in 16 bits, the first in the low byte; beyond the range the largest value, NaN stays NaN.
__device__ __forceinline__ u32 pair(float first, float second) {
  u16 both;
  if constexpr (MODE == 0) asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(second), "f"(first));
  else asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(both) : "f"(second), "f"(first));
  return both;
}

__device__ __forceinline__ float scale_of(float most) { return most > 0.0f ? most / LARGEST : 1.0f; }

// A chunk of 8 elements as 8 bytes.
__device__ __forceinline__ uint2 convert(uint4 raw, float scale) {
  float v[8];
  Pack<T>::open(raw, v);
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] /= scale;
  return make_uint2(pair(v[0], v[1]) | pair(v[2], v[3]) << 16, pair(v[4], v[5]) | pair(v[6], v[7]) << 16);
}

// Rows and columns of a tile; a block of 256 threads does one.
constexpr int TILE = 128;

// q `[n, c]` and its transpose qt `[c, n]` from x `[n, c]` in one pass; either may be null. Grid: tiles across, down.
// ALIGNED here means that c is a multiple of 8 and n of 16.
KERNEL __launch_bounds__(256)
    quantise(const T* x, const float* amax, float* scale_out, u8* q, u8* qt, i64 n, i64 c) {
  // A column's 128 rows are 8 accesses of 16 bytes. They are stored at their number XOR the column's group of 8, so
  // that threads which write the same rows of 8 neighbouring groups do not meet in a bank.
  __shared__ uint4 tile[TILE][8];
  const float scale = scale_of(amax[0]);
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) scale_out[0] = scale;
  const i64 top = (i64)blockIdx.y * TILE, left = (i64)blockIdx.x * TILE;
  const int width = c - left < TILE ? (int)(c - left) : TILE;
  // A thread has two patches of 4 rows × 8 columns.
  uint4 raw[2][4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int patch = threadIdx.x + 256 * i, column = patch % 16 * 8, row = patch / 16 * 4;
#pragma unroll
    for (int r = 0; r < 4; ++r)
      raw[i][r] = fetch(x + (top + row + r) * c + left, column, top + row + r < n ? width : 0);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int patch = threadIdx.x + 256 * i, group = patch % 16, strip = patch / 16;
    uint2 rows[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      rows[r] = convert(raw[i][r], scale);
      const i64 row = top + strip * 4 + r;
      if (q == nullptr || row >= n) continue;
      u8* out = q + row * c + left + group * 8;
      if constexpr (ALIGNED) {
        if (group * 8 < width) *reinterpret_cast<uint2*>(out) = rows[r];
      } else {
        for (int j = 0; j < 8; ++j)
          if (group * 8 + j < width) out[j] = (u8)((j < 4 ? rows[r].x : rows[r].y) >> 8 * (j % 4));
      }
    }
    // 4 × 4 bytes at a time: rows in, columns out.
    u32* words = reinterpret_cast<u32*>(tile);
    const int place = (strip / 4 ^ group % 8) * 4 + strip % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const u32 a = half ? rows[0].y : rows[0].x, b = half ? rows[1].y : rows[1].x;
      const u32 d = half ? rows[2].y : rows[2].x, e = half ? rows[3].y : rows[3].x;
      const u32 ab = __byte_perm(a, b, 0x5140), de = __byte_perm(d, e, 0x5140);
      const u32 ab2 = __byte_perm(a, b, 0x7362), de2 = __byte_perm(d, e, 0x7362);
      const int column = group * 8 + half * 4;
      words[(column + 0) * 32 + place] = __byte_perm(ab, de, 0x5410);
      words[(column + 1) * 32 + place] = __byte_perm(ab, de, 0x7632);
      words[(column + 2) * 32 + place] = __byte_perm(ab2, de2, 0x5410);
      words[(column + 3) * 32 + place] = __byte_perm(ab2, de2, 0x7632);
    }
  }
  if (qt == nullptr) return;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int item = threadIdx.x + 256 * i, column = item / 8, part = item % 8;
    const uint4 v = tile[column][part ^ column / 8 % 8];
    const i64 row = top + part * 16;
    if (column >= width || row >= n) continue;
    u8* out = qt + (left + column) * n + row;
    if constexpr (ALIGNED) {
      *reinterpret_cast<uint4*>(out) = v;
    } else {
      const u32 w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 16; ++j)
        if (row + j < n) out[j] = (u8)(w[j / 4] >> 8 * (j % 4));
    }
  }
}

#endif

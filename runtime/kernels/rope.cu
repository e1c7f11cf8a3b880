// Rotary position embedding (Su et al. 2021, arXiv 2104.09864), rotate-half: the pair (x₁, x₂) of dimensions
// (i, i + d/2) becomes (x₁·cos − x₂·sin, x₂·cos + x₁·sin).

// Heads that a thread has in flight.
constexpr int FLIGHT = 4;

// Grid: a block a row (token) of packed rows [q heads | k heads | v heads]. Rotates `heads` query heads and `kv_heads`
// key heads of width 2·half in place by the angles at the row's position, by −angle where `sign` is −1.
//
// `amax` (may be null) is raised to the largest magnitude in the rows, values too. A thread has one chunk of each half
// and strides over heads, so it reads its angles once.
KERNEL __launch_bounds__(256)
    rope(const float* cosines, const float* sines, const i64* positions, T* rows, i64 heads, i64 kv_heads, i64 half,
         float sign, u32* amax) {
  const i64 row = blockIdx.x;
  const int span = (int)half, d = 2 * span;
  const int chunks = (span + N - 1) / N, lanes = blockDim.x / chunks;
  const int at = (int)(threadIdx.x % chunks) * N, lane = threadIdx.x / chunks;
  rows += row * (heads + 2 * kv_heads) * d;
  // Threads beyond the last lane only bring the block to whole warps.
  const int rotated = (int)(heads + kv_heads), begin = lane < lanes ? lane : rotated + (int)kv_heads;
  u32 most = 0;
  float c[N], s[N];
  const i64 angle = positions[row] * half;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const bool inside = at + j < span;
    c[j] = inside ? cosines[angle + at + j] : 0.0f;
    s[j] = inside ? sign * sines[angle + at + j] : 0.0f;
  }
  for (int first = begin; first < rotated; first += FLIGHT * lanes) {
    uint4 left[FLIGHT], right[FLIGHT];
#pragma unroll
    for (int i = 0; i < FLIGHT; ++i) {
      const int head = first + i * lanes;
      if (head >= rotated) continue;
      const T* source = rows + (i64)head * d;
      left[i] = fetch(source, at, span);
      right[i] = fetch(source + span, at, span);
    }
#pragma unroll
    for (int i = 0; i < FLIGHT; ++i) {
      const int head = first + i * lanes;
      if (head >= rotated) continue;
      float x1[N], x2[N];
      Pack<T>::open(left[i], x1);
      Pack<T>::open(right[i], x2);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float turned = x1[j] * c[j] - x2[j] * s[j];
        x2[j] = x2[j] * c[j] + x1[j] * s[j];
        x1[j] = turned;
      }
      const uint4 a = Pack<T>::close(x1), b = Pack<T>::close(x2);
      if (amax != nullptr) most = max(most, max(magnitude(a), magnitude(b)));
      put(rows + (i64)head * d, at, span, a);
      put(rows + (i64)head * d + span, at, span, b);
    }
  }
  if (amax == nullptr) return;
  for (int head = rotated + begin; head < rotated + kv_heads; head += lanes) {
    const T* source = rows + (i64)head * d;
    most = max(most, max(magnitude(fetch(source, at, span)), magnitude(fetch(source + span, at, span))));
  }
  raise(amax, most);
}

// Elementwise work over n elements, their squared norm and largest magnitude.

// acc += x in f32.
KERNEL __launch_bounds__(256) accumulate(const T* x, float* acc, i64 n) {
  for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N; at < n; at += (i64)gridDim.x * blockDim.x * N) {
    const int width = n - at < N ? (int)(n - at) : N;
    float v[N];
    Pack<T>::open(fetch(x + at, 0, width), v);
#pragma unroll
    for (int part = 0; part < N; part += 4) {
      float sum[4];
      Pack<float>::open(fetch<float>(acc + at, part, width), sum);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += v[part + j];
      put<float>(acc + at, part, width, Pack<float>::close(sum));
    }
  }
}

// x[i] becomes 0 where word first + i of the stream is below `threshold`, else x[i]·kept.
KERNEL __launch_bounds__(256)
    dropout(T* x, i64 n, u64 first, u32 key0, u32 key1, u32 step0, u32 step1, u32 threshold, float kept) {
  for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N; at < n; at += (i64)gridDim.x * blockDim.x * N) {
    const int width = n - at < N ? (int)(n - at) : N;
    float v[N];
    Pack<T>::open(fetch(x + at, 0, width), v);
    uint4 words;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const u64 element = first + (u64)at + j;
      if (j == 0 || element % 4 == 0) words = philox(element / 4, make_uint2(step0, step1), make_uint2(key0, key1));
      v[j] = lane_of(words, (u32)(element % 4)) < threshold ? v[j] * 0.0f : v[j] * kept;
    }
    put(x + at, 0, width, Pack<T>::close(v));
  }
}

// Two standard normal numbers of two words (Box and Muller 1958). The twin is ops/philox.rs.
__device__ __forceinline__ void box_muller(u32 a, u32 b, double std, float* out) {
  const double unit = 1.0 / 4294967296.0;
  const double radius = sqrt(-2.0 * log(((double)a + 1.0) * unit));
  double s, c;
  sincospi(2.0 * ((double)b * unit), &s, &c);
  out[0] = (float)(radius * c * std);
  out[1] = (float)(radius * s * std);
}

// x[i] = element first + i of the stream as a normal number of deviation std. `first` and n are multiples of 4.
KERNEL __launch_bounds__(256)
    normal(T* x, i64 n, u64 first, u32 key0, u32 key1, u32 step0, u32 step1, double std) {
  for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 4; at < n; at += (i64)gridDim.x * blockDim.x * 4) {
    const uint4 words = philox((first + (u64)at) / 4, make_uint2(step0, step1), make_uint2(key0, key1));
    float v[4];
    box_muller(words.x, words.y, std, v);
    box_muller(words.z, words.w, std, v + 2);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[at + j] = narrow<T>(v[j]);
  }
}

// partial[block] = Σ x² of the block's share, in f64.
KERNEL __launch_bounds__(512) square_sum(const T* x, double* partial, i64 n) {
  __shared__ double sums[16];
  constexpr int FLIGHT = 4;
  double sum = 0.0;
  const i64 stride = (i64)gridDim.x * blockDim.x * N;
  for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N; at < n; at += FLIGHT * stride) {
    uint4 raw[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const i64 left = n - (at + k * stride);
      raw[k] = fetch(x + at + k * stride, 0, left < 0 ? 0 : left < N ? (int)left : N);
    }
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      float v[N];
      Pack<T>::open(raw[k], v);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += (double)v[j] * (double)v[j];
    }
  }
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// total[0] += Σ partial, in f64, by one block in a fixed order.
KERNEL __launch_bounds__(512) add_total(const double* partial, float* total, i64 n) {
  __shared__ double sums[16];
  double sum = 0.0;
  for (i64 i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) total[0] = (float)((double)total[0] + sum);
}

// Raises `amax` to the largest magnitude of x.
KERNEL __launch_bounds__(512) largest(const T* x, u32* amax, i64 n) {
  constexpr int FLIGHT = 4;
  u32 most = 0;
  const i64 stride = (i64)gridDim.x * blockDim.x * N;
  for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N; at < n; at += FLIGHT * stride) {
    uint4 raw[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const i64 left = n - (at + k * stride);
      raw[k] = fetch(x + at + k * stride, 0, left < 0 ? 0 : left < N ? (int)left : N);
    }
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) most = max(most, magnitude(raw[k]));
  }
  raise(amax, most);
}

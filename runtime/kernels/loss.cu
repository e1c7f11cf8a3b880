// Cross-entropy in nats on rows of logits, and its gradient in their place. Grid: a block a row.

// A maximum and Σ e^(x − maximum), joined as in Milakov and Gimelshein 2018, arXiv 1805.02867.
struct Online {
  float most, sum;
};

__device__ __forceinline__ Online join(Online a, Online b) {
  const float most = fmaxf(a.most, b.most);
  // Two empty parts: −∞ − −∞ would be NaN.
  if (most == -INFINITY_F) return Online{most, 0.0f};
  return Online{most, a.sum * __expf(a.most - most) + b.sum * __expf(b.most - most)};
}

// Logits beyond the vocabulary have no probability: asked once a chunk, not once an element.
__device__ __forceinline__ void mask(float (&v)[N], int at, int vocab) {
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (at + j >= vocab) v[j] = -INFINITY_F;
}

// Chunks in flight: so few that three blocks share a multiprocessor, and one reads while another works.
constexpr int FLIGHT = 2;

// losses[row] = weight·(log Σ e^x − x[target]) over the first `vocab` of `columns` columns. MODE 1: the logits become
// (softmax − onehot(target))·weight·inverse, 0 beyond the vocabulary. A target outside the vocabulary gives NaN.
// `keep` (MODE 1): the row waits in dynamic shared memory, a whole number of chunks, and is read from the device once;
// each thread keeps what it alone reads again.
KERNEL __launch_bounds__(512, 3)
    cross_entropy(T* logits, const i64* targets, const float* weights, const float* inverse, double* losses,
                  i64 columns, i64 vocab_, i64 keep) {
  extern __shared__ uint4 row_kept[];
  __shared__ Online parts[16];
  const i64 row = blockIdx.x;
  const int width = (int)columns, vocab = (int)vocab_;
  logits += row * columns;
  const i64 target = targets[row];
  const bool known = target >= 0 && target < vocab_;
  // Read before anyone writes: the barrier below lies between.
  const float picked = known ? wide(logits[target]) : __int_as_float(0x7fffffff);

  Online mine = {-INFINITY_F, 0.0f};
  for (int first = 0; first < vocab; first += FLIGHT * blockDim.x * N) {
    uint4 raw[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) raw[k] = fetch(logits, first + (int)(threadIdx.x + k * blockDim.x) * N, width);
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int at = first + (int)(threadIdx.x + k * blockDim.x) * N;
      if (at >= vocab) continue;
      if (MODE == 1 && keep) row_kept[at / N] = raw[k];
      float v[N];
      Pack<T>::open(raw[k], v);
      if (at + N > vocab) mask(v, at, vocab);
      float most = mine.most;
#pragma unroll
      for (int j = 0; j < N; ++j) most = fmaxf(most, v[j]);
      if (most == -INFINITY_F) continue;
      float sum = mine.sum * __expf(mine.most - most);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += __expf(v[j] - most);
      mine = Online{most, sum};
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const Online other = {__shfl_xor_sync(0xffffffffu, mine.most, offset),
                          __shfl_xor_sync(0xffffffffu, mine.sum, offset)};
    mine = join(mine, other);
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
  __syncthreads();
  Online all = parts[0];
  for (u32 i = 1; i < blockDim.x / 32; ++i) all = join(all, parts[i]);
  const float weight = weights[row];
  if (threadIdx.x == 0) losses[row] = (double)(all.most + logf(all.sum) - picked) * (double)weight;

#if MODE == 1
  const float scale = weight * inverse[0];
  const float factor = scale / all.sum;
  for (int first = 0; first < width; first += FLIGHT * blockDim.x * N) {
    uint4 raw[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int at = first + (int)(threadIdx.x + k * blockDim.x) * N;
      // Beyond the vocabulary nothing was kept, and nothing is read of it.
      if (keep) raw[k] = at < vocab ? row_kept[at / N] : make_uint4(0, 0, 0, 0);
      else raw[k] = fetch(logits, at, width);
    }
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int at = first + (int)(threadIdx.x + k * blockDim.x) * N;
      float v[N];
      Pack<T>::open(raw[k], v);
      if (at + N > vocab) mask(v, at, vocab);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = __expf(v[j] - all.most) * factor;
      if ((u64)(target - at) < N) {
#pragma unroll
        for (int j = 0; j < N; ++j)
          if (at + j == target) v[j] -= scale;
      }
      put(logits, at, width, Pack<T>::close(v));
    }
  }
#endif
}

// loss_sum[0] += Σ losses, in f64, by one block of 1,024 threads in a fixed order.
KERNEL __launch_bounds__(1024) add_sum(const double* losses, float* loss_sum, i64 n) {
  __shared__ double sums[32];
  double sum = 0.0;
  for (i64 i = threadIdx.x; i < n; i += blockDim.x) sum += losses[i];
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) loss_sum[0] = (float)((double)loss_sum[0] + sum);
}

// sums[s] += Σ losses of the rows of source s, as above. Grid: a block a source.
KERNEL __launch_bounds__(1024) add_by_source(const double* losses, const int* sources, float* sums, i64 n) {
  __shared__ double parts[32];
  const int source = (int)blockIdx.x;
  double sum = 0.0;
  for (i64 i = threadIdx.x; i < n; i += blockDim.x) {
    if (sources[i] == source) sum += losses[i];
  }
  sum = block_sum(sum, parts);
  if (threadIdx.x == 0) sums[source] = (float)((double)sums[source] + sum);
}

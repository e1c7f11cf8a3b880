// Token embedding.

// x[i] = weight[ids[i]]. Grid: a block a token. An id outside the vocabulary gives NaN, which the loss then shows.
KERNEL __launch_bounds__(256)
    embedding_forward(const T* weight, const i64* ids, T* x, i64 vocab, i64 h) {
  const i64 row = blockIdx.x, id = ids[row];
  const bool known = id >= 0 && id < vocab;
  const T* source = weight + (known ? id * h : 0);
  float nan[N];
#pragma unroll
  for (int j = 0; j < N; ++j) nan[j] = __int_as_float(0x7fffffff);
  for (int at = threadIdx.x * N; at < h; at += blockDim.x * N)
    put(x + row * h, at, (int)h, known ? fetch(source, at, (int)h) : Pack<T>::close(nan));
}

// Where each id occurs: first[id] and last[id] over the tokens. Three launches: prepare, mark, then gather.
KERNEL embedding_prepare(const i64* ids, int* first, int* last, i64 n, i64 vocab) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || ids[i] < 0 || ids[i] >= vocab) return;
  first[ids[i]] = (int)n;
  last[ids[i]] = -1;
}

// Minimum and maximum are exact in any order.
KERNEL embedding_mark(const i64* ids, int* first, int* last, i64 n, i64 vocab) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || ids[i] < 0 || ids[i] >= vocab) return;
  atomicMin(&first[ids[i]], (int)i);
  atomicMax(&last[ids[i]], (int)i);
}

// Rows of dx in flight.
constexpr int FLIGHT = 8;

// gradient[id] += dx[i] for every token i with that id, one after the other in token order. Grid: (tokens, blocks of
// columns of blockDim·N). The block of an id's first token does all of its tokens; the others have nothing to do.
KERNEL __launch_bounds__(128)
    embedding_backward(const T* dx, const i64* ids, const int* first, const int* last, U* gradient, i64 n, i64 vocab,
                       i64 h) {
  __shared__ int found[128];
  __shared__ int counts[4];
  const i64 id = ids[blockIdx.x];
  if (id < 0 || id >= vocab || first[id] != (int)blockIdx.x) return;
  const int width = (int)h, end = last[id];
  const int at = (int)(blockIdx.y * blockDim.x + threadIdx.x) * N;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  U* row = gradient + id * h;
  float sum[N];
#pragma unroll
  for (int j = 0; j < N; ++j) sum[j] = at + j < width ? wide(row[at + j]) : 0.0f;
  const auto add = [&](uint4 raw) {
    float v[N];
    Pack<T>::open(raw, v);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] += v[j];
  };
  const auto load = [&](int token) { return fetch(dx + (i64)token * h, at, width); };
  int start = blockIdx.x;
  // Most ids of a large vocabulary occur once: nobody to look for.
  if (start == end) add(load(start++));
  for (; start <= end; start += blockDim.x) {
    // The tokens of this stretch that have the id, in order.
    const int token = start + (int)threadIdx.x;
    const bool mine = token <= end && ids[token] == id;
    const u32 votes = __ballot_sync(0xffffffffu, mine);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    int before = 0, total = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (w < warp) before += counts[w];
      total += counts[w];
    }
    if (mine) found[before + __popc(votes & ((1u << lane) - 1u))] = token;
    __syncthreads();
    for (int i = 0; i < total; i += FLIGHT) {
      uint4 raw[FLIGHT];
#pragma unroll
      for (int k = 0; k < FLIGHT; ++k)
        if (i + k < total) raw[k] = load(found[i + k]);
#pragma unroll
      for (int k = 0; k < FLIGHT; ++k)
        if (i + k < total) add(raw[k]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (at + j < width) row[at + j] = narrow<U>(sum[j]);
}

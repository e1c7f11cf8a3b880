// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), one block or one group of warps a row. A row is read once:
// its chunks wait in registers between the sum and the result.

// Chunks of a row that one thread keeps: 4 × 512 threads × 8 elements is a row of 16,384 in a 16-bit format.
constexpr int KEPT = 4;

// y = x · rstd · w, rstd = 1/√(mean(x²) + ε). Grid: a block a row. `amax` (may be null) is raised to max |y|.
// With `branch` (may be null) x + branch takes the place of x: it is rounded to T, left in `total` and read from there.
KERNEL __launch_bounds__(1024)
    norm_forward(const T* x, const T* branch, const T* w, T* total, T* y, float* rstd, i64 h, float eps, u32* amax) {
  __shared__ float sums[32];
  const i64 row = blockIdx.x;
  const int width = (int)h;
  x += row * h;
  y += row * h;
  uint4 kept[KEPT];
#pragma unroll
  for (int k = 0; k < KEPT; ++k) kept[k] = fetch(x, (int)(threadIdx.x + k * blockDim.x) * N, width);
  if (branch != nullptr) {
    uint4 added[KEPT];
#pragma unroll
    for (int k = 0; k < KEPT; ++k)
      added[k] = fetch(branch + row * h, (int)(threadIdx.x + k * blockDim.x) * N, width);
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      float v[N], b[N];
      Pack<T>::open(kept[k], v);
      Pack<T>::open(added[k], b);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] += b[j];
      kept[k] = Pack<T>::close(v);
      put(total + row * h, (int)(threadIdx.x + k * blockDim.x) * N, width, kept[k]);
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < KEPT; ++k) {
    float v[N];
    Pack<T>::open(kept[k], v);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += v[j] * v[j];
  }
  sum = block_sum(sum, sums);
  const float r = rsqrtf(sum / (float)width + eps);
  if (threadIdx.x == 0) rstd[row] = r;
  u32 most = 0;
#pragma unroll
  for (int k = 0; k < KEPT; ++k) {
    const int at = (int)(threadIdx.x + k * blockDim.x) * N;
    if (at >= width) continue;
    float v[N], g[N];
    Pack<T>::open(kept[k], v);
    Pack<T>::open(fetch(w, at, width), g);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = v[j] * r * g[j];
    const uint4 out = Pack<T>::close(v);
    if (amax != nullptr) most = max(most, magnitude(out));
    put(y, at, width, out);
  }
  raise(amax, most);
}

// Waits for the `threads` threads of group `group`: named barriers 1 to 15, so groups do not wait for each other.
__device__ __forceinline__ void group_sync(int group, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(threads) : "memory");
}

// Chunks of the next row on their way to shared memory while this one is worked on: x, dy and what dx holds. Each thread
// reads only what it asked for itself, so no barrier is needed.
constexpr int STAGES = 3;

// Asks for elements [at, at + N) of a row; those beyond the row are zero.
__device__ __forceinline__ void ask(uint4* slot, const T* row, int at, int width) {
  if constexpr (ALIGNED) {
    const u32 to = (u32)__cvta_generic_to_shared(slot);
    const int bytes = at < width ? 16 : 0;
    const T* from = row + (at < width ? at : 0);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  } else {
    *slot = fetch(row, at, width);
  }
}

// Waits for everything this thread has asked for.
__device__ __forceinline__ void arrive() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Input and weight gradient in one pass over dy and x, with a = dy·w and k = mean(a·x)·rstd²:
// dx = rstd·a − x·k·rstd, written or (add) added to dx; partial[block] = Σ over the block's rows of dy·x·rstd.
//
// A block is `groups` groups of equal size; group g of block b takes rows b·groups + g, + gridDim·groups, …, so the
// order of every sum depends on the shape alone. Dynamic shared memory: STAGES · KEPT chunks a thread, where in the end
// the groups leave their sums, KEPT · N floats a thread.
// `amax` (may be null) is raised to max |dx|.
KERNEL __launch_bounds__(512)
    norm_backward(const T* dy, const T* x, const T* w, const float* rstd, T* dx, float* partial, i64 n, i64 h,
                  i64 groups_, i64 add, u32* amax) {
  extern __shared__ uint4 staged[];
  float* joined = reinterpret_cast<float*>(staged);
  __shared__ float all_sums[2][8][16];
  const int width = (int)h, groups = (int)groups_;
  const int threads = blockDim.x / groups, group = threadIdx.x / threads, lane = threadIdx.x % threads;
  u32 most = 0;
  float weight[KEPT][N];
#pragma unroll
  for (int k = 0; k < KEPT; ++k)
#pragma unroll
    for (int j = 0; j < N; ++j) weight[k][j] = 0.0f;
  uint4* mine = staged + threadIdx.x;
  const auto slot = [&](int stage, int k) { return mine + (stage * KEPT + k) * blockDim.x; };
  const auto request = [&](i64 row) {
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      const int at = (lane + k * threads) * N;
      ask(slot(0, k), x + row * h, at, width);
      ask(slot(1, k), dy + row * h, at, width);
      if (add) ask(slot(2, k), dx + row * h, at, width);
    }
  };
  const i64 first = (i64)blockIdx.x * groups + group, stride = (i64)gridDim.x * groups;
  float r = 0.0f;
  int turn = 0;
  if (first < n) request(first), r = rstd[first];
  for (i64 row = first; row < n; row += stride, turn ^= 1) {
    const i64 start = row * h;
    uint4 xs[KEPT], dys[KEPT], olds[KEPT];
    arrive();
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      if (add) olds[k] = *slot(2, k);
      xs[k] = *slot(0, k), dys[k] = *slot(1, k);
    }
    // What was kept of this row has been read.
    float next = 0.0f;
    if (row + stride < n) request(row + stride), next = rstd[row + stride];
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      float xv[N], dv[N], wv[N];
      Pack<T>::open(xs[k], xv);
      Pack<T>::open(dys[k], dv);
      Pack<T>::open(fetch(w, (lane + k * threads) * N, width), wv);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        sum += dv[j] * wv[j] * xv[j];
        weight[k][j] += dv[j] * xv[j] * r;
      }
    }
    sum = warp_sum(sum);
    if (threads > 32) {
      // Two sets in turn: whoever writes one again has passed a barrier after everyone read it.
      float* sums = all_sums[turn][group];
      if (lane % 32 == 0) sums[lane / 32] = sum;
      group_sync(group, threads);
      sum = 0.0f;
      for (int i = 0; i < threads / 32; ++i) sum += sums[i];
    }
    const float mean = sum / (float)width * r * r;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
      const int at = (lane + k * threads) * N;
      if (at >= width) continue;
      float xv[N], dv[N], wv[N], old[N];
      Pack<T>::open(xs[k], xv);
      Pack<T>::open(dys[k], dv);
      Pack<T>::open(fetch(w, at, width), wv);
      if (add) Pack<T>::open(olds[k], old);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float g = (dv[j] * wv[j] - xv[j] * mean) * r;
        dv[j] = add ? old[j] + g : g;
      }
      const uint4 out = Pack<T>::close(dv);
      if (amax != nullptr) most = max(most, magnitude(out));
      put(dx + start, at, width, out);
    }
    r = next;
  }
  raise(amax, most);
  // Everyone is done with what was staged. Neighbours lie beside each other: no bank is asked twice at once.
  __syncthreads();
  float* left = joined + (i64)group * threads * KEPT * N;
#pragma unroll
  for (int k = 0; k < KEPT; ++k)
#pragma unroll
    for (int j = 0; j < N; ++j) left[(k * N + j) * threads + lane] = weight[k][j];
  __syncthreads();
  // The groups' sums join in the order of the groups.
  partial += (i64)blockIdx.x * h;
  for (int at = threadIdx.x; at < width; at += blockDim.x) {
    const int chunk = at / N, from = (chunk / threads * N + at % N) * threads + chunk % threads;
    float sum = joined[from];
    for (int i = 1; i < groups; ++i) sum += joined[i * threads * KEPT * N + from];
    partial[at] = sum;
  }
}

// gradient[c] += Σ over rows of partial[row][c], rows in a fixed order. Block: 32 columns × 16 strands of rows,
// whose sums join from the first strand to the last.
KERNEL __launch_bounds__(512) column_sum(const float* partial, float* gradient, i64 rows, i64 h) {
  __shared__ float strands[16][33];
  const int column = threadIdx.x % 32, strand = threadIdx.x / 32;
  const i64 at = (i64)blockIdx.x * 32 + column;
  float sum = 0.0f;
  if (at < h) {
#pragma unroll 4
    for (i64 row = strand; row < rows; row += 16) sum += partial[row * h + at];
  }
  strands[strand][column] = sum;
  __syncthreads();
  if (strand == 0 && at < h) {
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i) sum += strands[i][column];
    gradient[at] += sum;
  }
}

// SwiGLU (Shazeer 2020, arXiv 2002.05202) on packed rows [gate | up] of 2f elements. Grid: a block a row.

// 1/(1 + e^−x) with the fast exponential and division: 2 ulp and a few more for large |x|, where the result is near
// 0 or 1. A denominator beyond 2^126 gives 0, which is the limit.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// Chunks of each operand that a thread has in flight.
constexpr int FLIGHT = 4;

// out = silu(gate)·up. `amax` (may be null) is raised to max |out|.
KERNEL __launch_bounds__(512) swiglu_forward(const T* gate_up, T* out, i64 f, u32* amax) {
  const i64 row = blockIdx.x;
  const int width = (int)f;
  const T* gate = gate_up + row * 2 * f;
  const T* up = gate + f;
  out += row * f;
  u32 most = 0;
  for (int first = 0; first < width; first += FLIGHT * blockDim.x * N) {
    uint4 gates[FLIGHT], ups[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int at = first + (int)(threadIdx.x + k * blockDim.x) * N;
      gates[k] = fetch(gate, at, width);
      ups[k] = fetch(up, at, width);
    }
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int at = first + (int)(threadIdx.x + k * blockDim.x) * N;
      float g[N], u[N];
      Pack<T>::open(gates[k], g);
      Pack<T>::open(ups[k], u);
#pragma unroll
      for (int j = 0; j < N; ++j) g[j] = g[j] * sigmoid(g[j]) * u[j];
      const uint4 product = Pack<T>::close(g);
      // Beyond the row everything is zero.
      if (amax != nullptr) most = max(most, magnitude(product));
      put(out, at, width, product);
    }
  }
  raise(amax, most);
}

// With s = sigmoid(gate): d_gate = dy·up·s·(1 + gate·(1 − s)) and d_up = dy·gate·s, in place of gate and up.
// `amax` (may be null) is raised to the largest magnitude of both.
KERNEL __launch_bounds__(512) swiglu_backward(const T* dy, T* gate_up, i64 f, u32* amax) {
  constexpr int FEW = FLIGHT / 2;
  const i64 row = blockIdx.x;
  const int width = (int)f;
  T* gate = gate_up + row * 2 * f;
  T* up = gate + f;
  dy += row * f;
  u32 most = 0;
  for (int first = 0; first < width; first += FEW * blockDim.x * N) {
    uint4 gates[FEW], ups[FEW], dys[FEW];
#pragma unroll
    for (int k = 0; k < FEW; ++k) {
      const int at = first + (int)(threadIdx.x + k * blockDim.x) * N;
      gates[k] = fetch(gate, at, width);
      ups[k] = fetch(up, at, width);
      dys[k] = fetch(dy, at, width);
    }
#pragma unroll
    for (int k = 0; k < FEW; ++k) {
      const int at = first + (int)(threadIdx.x + k * blockDim.x) * N;
      float g[N], u[N], d[N];
      Pack<T>::open(gates[k], g);
      Pack<T>::open(ups[k], u);
      Pack<T>::open(dys[k], d);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float s = sigmoid(g[j]);
        const float d_gate = d[j] * u[j] * (s * (1.0f + g[j] * (1.0f - s)));
        u[j] = d[j] * (g[j] * s);
        g[j] = d_gate;
      }
      const uint4 d_gate = Pack<T>::close(g), d_up = Pack<T>::close(u);
      if (amax != nullptr) most = max(most, max(magnitude(d_gate), magnitude(d_up)));
      put(gate, at, width, d_gate);
      put(up, at, width, d_up);
    }
  }
  raise(amax, most);
}

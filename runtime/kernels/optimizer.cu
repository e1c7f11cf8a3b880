// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) in one pass over a parameter: T is the gradient's type, U the
// moments'. MODE says what the parameter is:
//   0  f32 weights
//   1  an f32 master, and bf16 weights that are its copy
//   2  the f32 master split into the bf16 weights, which are it rounded (halves upwards), and the 16 bits that are
//      missing: the master's bits less the weight's, from −32,768 to 32,767
//   3  bf16 weights alone, rounded at random in proportion (stochastic rounding, Gupta et al. 2015, arXiv
//      1502.02551)
// bf16 moments are rounded at random as well: to nearest, a second moment would stop moving once an update is
// below half a unit, as it is at β₂ = 0.999.

// Elements of one access of a thread.
constexpr int STRIDE = 4;

template <class E> __device__ __forceinline__ float4 load(const E* p, i64 at, i64 n) {
  if constexpr (ALIGNED) {
    if constexpr (sizeof(E) == 4) {
      return *reinterpret_cast<const float4*>(p + at);
    } else {
      const uint2 raw = *reinterpret_cast<const uint2*>(p + at);
      return make_float4(low<E>(raw.x), high<E>(raw.x), low<E>(raw.y), high<E>(raw.y));
    }
  } else {
    return make_float4(wide(p[at]), at + 1 < n ? wide(p[at + 1]) : 0.0f, at + 2 < n ? wide(p[at + 2]) : 0.0f,
                       at + 3 < n ? wide(p[at + 3]) : 0.0f);
  }
}

// Four 16-bit values as two words.
__device__ __forceinline__ uint2 load_bits(const u16* p, i64 at, i64 n) {
  if constexpr (ALIGNED) {
    return *reinterpret_cast<const uint2*>(p + at);
  } else {
    u32 v[4];
    for (int j = 0; j < 4; ++j) v[j] = at + j < n ? p[at + j] : 0;
    return make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
  }
}

__device__ __forceinline__ void store_bits(u16* p, i64 at, i64 n, uint2 raw) {
  if constexpr (ALIGNED) {
    *reinterpret_cast<uint2*>(p + at) = raw;
  } else {
    const u32 v[4] = {raw.x & 0xffffu, raw.x >> 16, raw.y & 0xffffu, raw.y >> 16};
    for (int j = 0; j < 4; ++j)
      if (at + j < n) p[at + j] = (u16)v[j];
  }
}

__device__ __forceinline__ void store(float* p, i64 at, i64 n, float4 v) {
  if constexpr (ALIGNED) {
    *reinterpret_cast<float4*>(p + at) = v;
  } else {
    const float all[4] = {v.x, v.y, v.z, v.w};
    for (int j = 0; j < 4; ++j)
      if (at + j < n) p[at + j] = all[j];
  }
}

// The upper half of x's bits after 16 random bits were added to them: a bf16 that is x on average.
__device__ __forceinline__ u32 round_at_random(float x, u32 random) {
  const u32 bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return (bits >> 16) | ((bits & 0x7fffffu) != 0 ? 0x40u : 0u);
  return (bits + (random & 0xffffu)) >> 16;
}

// Rounds four values with the upper or lower halves of four words.
__device__ __forceinline__ uint2 round_at_random(float4 v, uint4 random, int shift) {
  return make_uint2(round_at_random(v.x, random.x >> shift) | round_at_random(v.y, random.y >> shift) << 16,
                    round_at_random(v.z, random.z >> shift) | round_at_random(v.w, random.w >> shift) << 16);
}

// A master from its weight's bits and, in the upper half of a word, the missing 16.
__device__ __forceinline__ float unsplit(u32 weight, u32 missing) {
  return __uint_as_float(weight + (u32)((int)missing >> 16));
}

// The bits of x rounded to bf16, halves upwards; the missing 16 bits.
__device__ __forceinline__ u32 upper(float x) { return (__float_as_uint(x) + 0x8000u) & 0xffff0000u; }
__device__ __forceinline__ u32 missing(float x, u32 upper) { return (__float_as_uint(x) - upper) & 0xffffu; }

struct Step {
  float inverse_scale, keep, rate, root;  // 1/divisor, 1 − lr·λ, lr/(1 − β₁ᵗ), 1/√(1 − β₂ᵗ)
};

struct Constants {
  double log_beta1, log_beta2;
  float beta2, rest1, rest2, eps, decay, lr_multiplier;  // rest = 1 − β
};

// Which products fuse with sums is written out, so that every mode gives the same bits, and the twin too.
__device__ __forceinline__ void adam(float& p, float g, float& m, float& v, const Step& s, const Constants& c) {
  g *= s.inverse_scale;
  m = fmaf(c.rest1, g - m, m);
  v = fmaf(c.rest2 * g, g, c.beta2 * v);
  p = fmaf(-s.rate, m / fmaf(sqrtf(v), s.root, c.eps), p * s.keep);
}

// Scalars lr, divisor (gradients are divided by it), skip (1: nothing changes), step (from 1) are on the device.
// Random words: element e of the parameter, the first of this call being `first`, has 64 bits of the stream: words
// 2·(e mod 2) and the next of block e/2; lower and upper half of the first round weight and first moment, the lower
// half of the next the second moment.
KERNEL __launch_bounds__(256)
    adamw(const T* gradient, float* master, U* m, U* v, bf16* weight, u16* lower, const float* lr,
          const float* divisor, const float* skip, const float* step, i64 n, double log_beta1, double log_beta2,
          float beta2, float rest1, float rest2, float eps, float decay, float lr_multiplier, u64 first, u32 key0,
          u32 key1, u32 step0, u32 step1) {
  __shared__ Step shared;
  if (skip[0] != 0.0f) return;
  const Constants c = {log_beta1, log_beta2, beta2, rest1, rest2, eps, decay, lr_multiplier};
  if (threadIdx.x == 0) {
    // 1 − βᵗ without cancellation.
    const double t = (double)step[0], rate = (double)lr[0] * (double)lr_multiplier;
    shared.inverse_scale = (float)(1.0 / (double)divisor[0]);
    shared.keep = (float)(1.0 - rate * (double)decay);
    shared.rate = (float)(rate / -expm1(t * log_beta1));
    shared.root = (float)(1.0 / sqrt(-expm1(t * log_beta2)));
  }
  __syncthreads();
  const Step s = shared;
  constexpr bool RANDOM = MODE == 3 || sizeof(U) == 2;
  const i64 stride = (i64)gridDim.x * blockDim.x * STRIDE;
  for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * STRIDE; at < n; at += stride) {
    const float4 g = load(gradient, at, n);
    float4 mv = load(m, at, n), vv = load(v, at, n), p;
    if constexpr (MODE <= 1) p = load(master, at, n);
    if constexpr (MODE == 3) p = load(weight, at, n);
    if constexpr (MODE == 2) {
      const uint2 hi = load_bits(reinterpret_cast<const u16*>(weight), at, n), lo = load_bits(lower, at, n);
      p = make_float4(unsplit(hi.x << 16, lo.x << 16), unsplit(hi.x & 0xffff0000u, lo.x),
                      unsplit(hi.y << 16, lo.y << 16), unsplit(hi.y & 0xffff0000u, lo.y));
    }
    adam(p.x, g.x, mv.x, vv.x, s, c);
    adam(p.y, g.y, mv.y, vv.y, s, c);
    adam(p.z, g.z, mv.z, vv.z, s, c);
    adam(p.w, g.w, mv.w, vv.w, s, c);
    uint4 one, two;  // words for weight and first moment, words for the second moment, of the four elements
    if constexpr (RANDOM) {
      // A block serves two elements; `first` is even, as every row of a matrix that is ever sharded is.
      const u64 block = (first + (u64)at) / 2;
      const uint4 a = philox(block, make_uint2(step0, step1), make_uint2(key0, key1));
      const uint4 b = philox(block + 1, make_uint2(step0, step1), make_uint2(key0, key1));
      one = make_uint4(a.x, a.z, b.x, b.z);
      two = make_uint4(a.y, a.w, b.y, b.w);
    }
    if constexpr (sizeof(U) == 4) {
      store((float*)m, at, n, mv);
      store((float*)v, at, n, vv);
    } else {
      store_bits((u16*)m, at, n, round_at_random(mv, one, 16));
      store_bits((u16*)v, at, n, round_at_random(vv, two, 0));
    }
    if constexpr (MODE <= 1) store(master, at, n, p);
    if constexpr (MODE == 1)
      store_bits((u16*)weight, at, n, make_uint2(pack<bf16>(p.x, p.y), pack<bf16>(p.z, p.w)));
    if constexpr (MODE == 2) {
      const u32 x = upper(p.x), y = upper(p.y), z = upper(p.z), w = upper(p.w);
      store_bits((u16*)weight, at, n, make_uint2(x >> 16 | y, z >> 16 | w));
      store_bits(lower, at, n, make_uint2(missing(p.x, x) | missing(p.y, y) << 16, missing(p.z, z) | missing(p.w, w) << 16));
    }
    if constexpr (MODE == 3) store_bits((u16*)weight, at, n, round_at_random(p, one, 0));
  }
}

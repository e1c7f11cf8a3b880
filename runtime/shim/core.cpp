// What tch does not offer and libtorch_cpu alone can give: a counting CPU allocator, device-allocator
// statistics, GEMM with alpha and beta, the fused AdamW step. CUDA-only parts (streams, graphs, NCCL) are not
// here: they live in a library of their own, because libtorch_cuda does not load on a machine without a driver's
// companions.
#include "core.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <dlfcn.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

// ATen's own alignment on the CPU (c10/core/alignment.h: gAlignment = 64). A header of one such unit holds the size.
constexpr size_t kAlignment = 64;

std::atomic<uint64_t> g_live{0};
std::atomic<uint64_t> g_peak{0};
std::atomic<uint64_t> g_allocations{0};

void count_up(uint64_t bytes) {
  const uint64_t live = g_live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  uint64_t peak = g_peak.load(std::memory_order_relaxed);
  while (peak < live && !g_peak.compare_exchange_weak(peak, live, std::memory_order_relaxed)) {
  }
  g_allocations.fetch_add(1, std::memory_order_relaxed);
}

void release(void* data) {
  if (data == nullptr) return;
  char* base = static_cast<char*>(data) - kAlignment;
  uint64_t bytes = 0;
  std::memcpy(&bytes, base, sizeof(bytes));
  g_live.fetch_sub(bytes, std::memory_order_relaxed);
  std::free(base);
}

struct CountingAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    TORCH_CHECK(bytes <= SIZE_MAX - kAlignment, "CPU allocation of ", bytes, " bytes overflows");
    void* base = nullptr;
    if (posix_memalign(&base, kAlignment, bytes + kAlignment) != 0 || base == nullptr) {
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CPU memory exhausted: ", bytes, " bytes requested, ",
                       g_live.load(), " bytes live");
    }
    const uint64_t size = bytes;
    std::memcpy(base, &size, sizeof(size));
    count_up(size);
    void* data = static_cast<char*>(base) + kAlignment;
    return {data, data, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* dest, const void* src, std::size_t count) const override {
    default_copy_data(dest, src, count);
  }
};

char* text(const char* message) {
  char* copy = strdup(message);
  return copy != nullptr ? copy : strdup("");
}

// Runs `body` without autograd; an exception becomes its text. c10::Error without its backtrace.
template <typename F>
char* guarded(F&& body) noexcept {
  try {
    c10::AutoGradMode no_grad(false);
    body();
    return nullptr;
  } catch (const c10::Error& e) {
    return text(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return text(e.what());
  } catch (...) {
    return text("unknown C++ exception");
  }
}

at::Tensor& tensor(void* p) { return *static_cast<at::Tensor*>(p); }
const at::Tensor& tensor(const void* p) { return *static_cast<const at::Tensor*>(p); }

std::vector<at::Tensor> list(void* const* p, size_t count) {
  std::vector<at::Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) out.push_back(tensor(p[i]));
  return out;
}

std::optional<at::Tensor> optional(const void* p) {
  return p == nullptr ? std::nullopt : std::optional<at::Tensor>(tensor(p));
}

// [sequences * s, heads, d] as cuDNN's [sequences, heads, s, d]: a view, no copy.
at::Tensor by_sequence(const at::Tensor& t, int64_t sequences) {
  return t.unflatten(0, {sequences, t.size(0) / sequences}).transpose(1, 2);
}

// Asks libtorch's flash attention for a fixed order of sums while it lives.
struct FixedOrder {
  explicit FixedOrder(bool on) : before(at::globalContext().deterministicAlgorithms()),
                                 warn(at::globalContext().deterministicAlgorithmsWarnOnly()) {
    at::globalContext().setDeterministicAlgorithms(on, warn);
  }
  ~FixedOrder() { at::globalContext().setDeterministicAlgorithms(before, warn); }
  FixedOrder(const FixedOrder&) = delete;
  FixedOrder& operator=(const FixedOrder&) = delete;
  bool before, warn;
};

// libtorch's attention allocates its results itself, by `empty_like` of a query, key or value. While one of these
// lives, that gives what the results are to be written to instead: no copy, and for the gradients no packing. A mode
// key of the dispatcher that nothing else uses carries it; every other operator falls through.
constexpr auto kInPlace = c10::DispatchKey::TESTING_ONLY_GenericMode;

struct Destination {
  at::Tensor like;
  at::Tensor result;
};

thread_local std::vector<Destination> g_destinations;

struct InPlace {
  explicit InPlace(std::vector<Destination> destinations) : mode(kInPlace) { g_destinations = std::move(destinations); }
  ~InPlace() { g_destinations.clear(); }
  InPlace(const InPlace&) = delete;
  InPlace& operator=(const InPlace&) = delete;
  c10::impl::IncludeDispatchKeyGuard mode;
};

at::Tensor empty_like(const at::Tensor& like, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                      std::optional<at::Device> device, std::optional<bool> pinned,
                      std::optional<at::MemoryFormat> format) {
  const auto found = std::find_if(g_destinations.begin(), g_destinations.end(), [&](const Destination& d) {
    return d.like.const_data_ptr() == like.const_data_ptr() && d.like.sizes() == like.sizes() &&
           d.result.scalar_type() == dtype.value_or(like.scalar_type());
  });
  if (found != g_destinations.end()) {
    const at::Tensor result = found->result;
    g_destinations.erase(found);  // a second one is something else
    return result;
  }
  const c10::impl::ExcludeDispatchKeyGuard below(kInPlace);
  return at::empty_like(like, dtype, layout, device, pinned, format);
}

// A libtorch that allocates in another way gives its own tensor: copied then, and the memory it took is seen by
// whoever compares with what was declared.
void settle(const at::Tensor& result, const at::Tensor& found) {
  if (found.const_data_ptr() != result.const_data_ptr()) result.copy_(found);
}

uint64_t counter(int64_t value) { return value < 0 ? 0 : static_cast<uint64_t>(value); }

c10::DeviceAllocator* cuda_allocator() { return c10::getDeviceAllocator(c10::DeviceType::CUDA); }

}  // namespace

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, TESTING_ONLY_GenericMode, m) { m.impl("empty_like", &empty_like); }

extern "C" {

void llmc_free_error(char* error) { std::free(error); }

char* llmc_cpu_allocator_install() {
  return guarded([] {
    // Never destroyed: tensors with static lifetime may outlive every destructor of this file.
    static CountingAllocator* allocator = new CountingAllocator();
    // 255 is the highest priority (c10/core/Allocator.h: "only higher or equal priority can overwrite").
    c10::SetAllocator(c10::DeviceType::CPU, allocator, 255);
  });
}

LlmcAllocatorStats llmc_cpu_allocator_stats() { return {g_live.load(), g_peak.load(), g_allocations.load()}; }

void llmc_cpu_allocator_reset_peak() { g_peak.store(g_live.load()); }

char* llmc_load_library(const char* path) {
  return guarded([path] {
    // RTLD_GLOBAL: its static initialisers register CUDA kernels and hooks with libtorch_cpu.
    if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      const char* reason = dlerror();
      TORCH_CHECK(false, "cannot open ", path, ": ", reason != nullptr ? reason : "unknown reason");
    }
  });
}

char* llmc_device_stats(int8_t device_index, LlmcDeviceStats* out) {
  return guarded([=] {
    const auto stats = cuda_allocator()->getDeviceStats(device_index);
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    out->live_bytes = counter(stats.requested_bytes[all].current);
    out->peak_bytes = counter(stats.requested_bytes[all].peak);
    out->allocated_bytes = counter(stats.allocated_bytes[all].current);
    out->peak_allocated_bytes = counter(stats.allocated_bytes[all].peak);
    out->reserved_bytes = counter(stats.reserved_bytes[all].current);
    out->peak_reserved_bytes = counter(stats.reserved_bytes[all].peak);
    out->allocations = counter(stats.allocation[all].allocated);
    out->device_allocations = counter(stats.num_device_alloc);
  });
}

char* llmc_device_reset_peak(int8_t device_index) {
  return guarded([=] { cuda_allocator()->resetPeakStats(device_index); });
}

char* llmc_gemm(void* out, const void* a, const void* b, double beta, double alpha) {
  return guarded([=] {
    at::Tensor& result = tensor(out);
    if (result.dim() == 3) {
      at::baddbmm_out(result, result, tensor(a), tensor(b), beta, alpha);
    } else if (result.scalar_type() != tensor(a).scalar_type()) {
      at::addmm_outf(result, tensor(a), tensor(b), result.scalar_type(), beta, alpha, result);
    } else {
      at::addmm_out(result, result, tensor(a), tensor(b), beta, alpha);
    }
  });
}

char* llmc_upload(void* out, const void* values) {
  return guarded([=] { tensor(out).copy_(tensor(values).pin_memory(), /*non_blocking=*/true); });
}

char* llmc_fused_adamw(void* const* params, void* const* grads, void* const* exp_avgs, void* const* exp_avg_sqs,
                       void* const* steps, size_t count, const void* lr, double beta1, double beta2,
                       double weight_decay, double eps, const void* grad_scale, const void* found_inf) {
  return guarded([=] {
    auto p = list(params, count), g = list(grads, count), m = list(exp_avgs, count), v = list(exp_avg_sqs, count);
    auto s = list(steps, count);
    at::_fused_adamw_(p, g, m, v, {}, s, tensor(lr), beta1, beta2, weight_decay, eps, /*amsgrad=*/false,
                      /*maximize=*/false, optional(grad_scale), optional(found_inf));
  });
}

char* llmc_attention_forward(const LlmcAttention* how, const void* q_, const void* k_, const void* v_,
                             const void* cu_seqlens, void* out_, void* lse) {
  return guarded([=] {
    at::Tensor q = tensor(q_), k = tensor(k_), v = tensor(v_), out = tensor(out_);
    if (how->flash) {
      const at::Tensor& cu = tensor(cu_seqlens);
      const InPlace here({{q, out}});
      const auto result = at::_flash_attention_forward(q, k, v, cu, cu, how->longest, how->longest, /*dropout_p=*/0.0,
                                                       /*is_causal=*/true, /*return_debug_mask=*/false);
      settle(out, std::get<0>(result));
      tensor(lse).copy_(std::get<1>(result));
      return;
    }
    const int64_t b = how->sequences;
    for (at::Tensor* t : {&q, &k, &v, &out}) *t = by_sequence(*t, b);
    const InPlace here({{q, out}});
    const auto result = at::_scaled_dot_product_cudnn_attention(q, k, v, std::nullopt, /*compute_log_sumexp=*/true,
                                                                /*dropout_p=*/0.0, /*is_causal=*/true);
    settle(out, std::get<0>(result));
    // [b, heads, s(, 1)] → [heads, b·s]
    const at::Tensor& found = std::get<1>(result);
    at::Tensor& kept = tensor(lse);
    kept.view({kept.size(0), b, -1}).copy_(found.reshape({b, kept.size(0), -1}).transpose(0, 1));
  });
}

char* llmc_attention_backward(const LlmcAttention* how, const void* dout_, const void* q_, const void* k_,
                              const void* v_, const void* out_, const void* lse_, const void* cu_seqlens, void* dq_,
                              void* dk_, void* dv_) {
  return guarded([=] {
    at::Tensor dout = tensor(dout_), q = tensor(q_), k = tensor(k_), v = tensor(v_), out = tensor(out_);
    at::Tensor dq = tensor(dq_), dk = tensor(dk_), dv = tensor(dv_);
    const at::Tensor& lse = tensor(lse_);
    // Seed and offset of a dropout that there is none of.
    const at::Tensor seed = at::empty({2}, q.options().dtype(at::kLong));
    std::tuple<at::Tensor, at::Tensor, at::Tensor> found;
    if (how->flash) {
      const FixedOrder order(how->deterministic);
      const at::Tensor& cu = tensor(cu_seqlens);
      const InPlace here({{q, dq}, {k, dk}, {v, dv}});
      found = at::_flash_attention_backward(dout, q, k, v, out, lse, cu, cu, how->longest, how->longest,
                                            /*dropout_p=*/0.0, /*is_causal=*/true, seed, seed);
    } else {
      const int64_t b = how->sequences;
      const int64_t s = q.size(0) / b;
      for (at::Tensor* t : {&dout, &q, &k, &v, &out, &dq, &dk, &dv}) *t = by_sequence(*t, b);
      const at::Tensor stats = lse.view({lse.size(0), b, s}).transpose(0, 1).contiguous().unsqueeze(-1);
      const at::Tensor none;
      const InPlace here({{q, dq}, {k, dk}, {v, dv}});
      found = at::_scaled_dot_product_cudnn_attention_backward(dout, q, k, v, out, stats, seed[0], seed[1], none, none,
                                                               none, s, s, /*dropout_p=*/0.0, /*is_causal=*/true);
    }
    settle(dq, std::get<0>(found));
    settle(dk, std::get<1>(found));
    settle(dv, std::get<2>(found));
  });
}

char* llmc_cudnn_version(int64_t* version) {
  return guarded([=] {
    const auto& hooks = at::detail::getCUDAHooks();
    *version = hooks.hasCuDNN() ? static_cast<int64_t>(hooks.versionCuDNN()) : 0;
  });
}
}

// The C interface of core.cpp. No C++ type crosses it: a tensor is an `at::Tensor*` behind `void*` (what tch's
// `Tensor::as_ptr` gives), and every call that can fail returns NULL or an error text that the caller frees
// with `llmc_free_error`.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

// Bytes are those requested, without header or padding.
struct LlmcAllocatorStats {
  uint64_t live_bytes;
  uint64_t peak_bytes;
  uint64_t allocations;
};

struct LlmcDeviceStats {
  uint64_t live_bytes;           // requested by client code, live
  uint64_t peak_bytes;           // peak of live_bytes since the last reset
  uint64_t allocated_bytes;      // live, rounded up to the allocator's blocks
  uint64_t peak_allocated_bytes;
  uint64_t reserved_bytes;       // taken from the device
  uint64_t peak_reserved_bytes;
  uint64_t allocations;          // ever made
  uint64_t device_allocations;   // blocks ever taken from the device
};

void llmc_free_error(char* error);

// CPU allocator
char* llmc_cpu_allocator_install();
LlmcAllocatorStats llmc_cpu_allocator_stats();
void llmc_cpu_allocator_reset_peak();

// Accelerator: `path` is libtorch_cuda.so; `device_type` is "cuda".
char* llmc_load_library(const char* path);
char* llmc_device_stats(int8_t device_index, LlmcDeviceStats* out);
char* llmc_device_reset_peak(int8_t device_index);

// Ops that tch lacks.
// out = beta * out + alpha * a @ b, for 2-d operands or batches of them; beta 0 does not read `out`. On CUDA a
// 2-d `out` may be f32 for bf16 operands.
char* llmc_gemm(void* out, const void* a, const void* b, double beta, double alpha);
// Copies CPU `values` to the CUDA tensor `out` of the same shape and type, without waiting for the device. They go
// through page-locked memory of libtorch's host allocator, which takes it back once the copy has run.
char* llmc_upload(void* out, const void* values);
// One decoupled-weight-decay Adam step on `count` tensors of equal dtype; `grad_scale` and `found_inf` may be NULL.
char* llmc_fused_adamw(void* const* params, void* const* grads, void* const* exp_avgs, void* const* exp_avg_sqs,
                       void* const* steps, size_t count, const void* lr, double beta1, double beta2,
                       double weight_decay, double eps, const void* grad_scale, const void* found_inf);

// Fused attention of a CUDA device, causal, scale 1/sqrt(head_dim). q, k, v, out and their gradients are
// [n, heads, head_dim] in bf16 or f16, their last axis contiguous (views into packed rows are fine); lse is
// [heads, n] f32. cuDNN: `sequences` sequences of equal length. FlashAttention 2: documents of at most `longest`
// rows, bounds in `cu_seqlens` [d + 1] i32; `deterministic` fixes the order of its sums.
struct LlmcAttention {
  int64_t sequences;
  int64_t longest;
  bool flash;
  bool deterministic;
};
char* llmc_attention_forward(const LlmcAttention* how, const void* q, const void* k, const void* v,
                             const void* cu_seqlens, void* out, void* lse);
char* llmc_attention_backward(const LlmcAttention* how, const void* dout, const void* q, const void* k, const void* v,
                              const void* out, const void* lse, const void* cu_seqlens, void* dq, void* dk, void* dv);
// Version of the cuDNN that libtorch loaded: 91900 is 9.19.0; 0 when there is none.
char* llmc_cudnn_version(int64_t* version);
}

// Every op's schema, one line each. Kernels register themselves beside their code, per device;
// shapes for tracing and derivatives are in megafm/ops/cpp.

#include <torch/csrc/stable/library.h>

#ifdef MEGAFM_EMULATE  // CUDA kernels on tensors of the CPU: tests
STABLE_TORCH_LIBRARY(megafm_emulated, m) {
#else
STABLE_TORCH_LIBRARY(megafm, m) {
#endif
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor y, Tensor rstd)");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps)"
        " -> (Tensor y, Tensor total, Tensor rstd)");
  m.def("rms_norm_backward(Tensor d_y, Tensor? d_total, Tensor x, Tensor weight, Tensor rstd)"
        " -> (Tensor d_x, Tensor d_weight)");

  m.def("rope(Tensor q, Tensor k, Tensor cos, Tensor sin, Tensor? positions, bool interleaved,"
        " bool inverse) -> (Tensor, Tensor)");

  m.def("swiglu(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_backward(Tensor d_out, Tensor gate, Tensor up) -> (Tensor d_gate, Tensor d_up)");

  m.def("softmax_stats(Tensor logits, Tensor columns)"
        " -> (Tensor top, Tensor log_total, Tensor picked)");
  m.def("softmax_backward(Tensor logits, Tensor columns, Tensor top, Tensor log_total,"
        " Tensor d_lse, Tensor d_picked) -> Tensor");
  m.def("softmax_backward_(Tensor(a!) logits, Tensor columns, Tensor top, Tensor log_total,"
        " Tensor d_lse, Tensor d_picked, float? softcap) -> ()");

  m.def("attention(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor? cu_seqlens,"
        " Tensor? cu_seqlens_k, bool causal, float scale, int? window, float? softcap,"
        " bool deterministic) -> (Tensor out, Tensor lse)");
  m.def("attention_backward(Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor out,"
        " Tensor lse, Tensor? sinks, Tensor? cu_seqlens, Tensor? cu_seqlens_k, bool causal,"
        " float scale, int? window, float? softcap, bool deterministic)"
        " -> (Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_sinks)");

  m.def("adamw_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs,"
        " Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] masters, int step, float lr, float beta1,"
        " float beta2, float eps, float weight_decay) -> ()");
  m.def("square_sums(Tensor[] tensors) -> Tensor");

  m.def("cpu_isa() -> str");        // the instruction set that CPU kernels run on
  m.def("cpu_isas() -> str");       // those compiled in that this CPU has, comma separated
  m.def("set_cpu_isa(str name) -> ()");
}

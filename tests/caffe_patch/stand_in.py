"""Trees of a few lines that have the places the patch looks for, shaped like the lines of Caffe they stand for.

Only what surrounds an edit is there; the rest of each function is left out, so nothing here trains anything.
"""

from __future__ import annotations

from pathlib import Path

PROTO = """syntax = "proto2";
package caffe;
//
// SolverParameter next available ID: {next} (last added: {last})
message SolverParameter {{
  //////////////////////////////////////////////////////////////////////////////
  // message SolverParameter {{ in a comment, and a brace in a literal: misleads nobody
  optional string lr_policy = 8;
  optional float momentum = 11; // The momentum value.
  optional string type = 40 [default = "}}SGD"];
  enum SolverMode {{ CPU = 0; GPU = 1; }}
  optional SolverMode solver_mode = 17 [default = GPU];
{fields}}}

// A message that holds the state of a solver
message SolverState {{
  optional int32 iter = 1;
}}
"""

HEADER = """#ifndef CAFFE_SGD_SOLVERS_HPP_
#define CAFFE_SGD_SOLVERS_HPP_

#include "caffe/solver.hpp"

namespace caffe {{

template <typename Dtype>
class SGDSolver : public {solver} {{
 public:
  explicit SGDSolver(const SolverParameter& param) : {solver}(param) {{ PreSolve(); }}
 protected:
  void PreSolve();
  virtual void Normalize(int param_id);
  virtual void Regularize(int param_id);
}};

template <typename Dtype>
class AdaGradSolver : public SGDSolver<Dtype> {{
 protected:
  virtual void ComputeUpdateValue(int param_id, Dtype rate);
  void constructor_sanity_check() {{
    CHECK_EQ(0, this->param_.momentum())
        << "Momentum cannot be used with AdaGrad.";
  }}
}};

template <typename Dtype>
class RMSPropSolver : public SGDSolver<Dtype> {{
 protected:
  virtual void ComputeUpdateValue(int param_id, Dtype rate);
  void constructor_sanity_check() {{
    CHECK_EQ(0, this->param_.momentum())
        << "Momentum cannot be used with RMSProp.";
  }}
}};

}}  // namespace caffe
#endif
"""

SGD = """#include "caffe/sgd_solvers.hpp"

namespace caffe {{

// a policy triangular is not here yet, says this comment
template <typename Dtype>
{real} SGDSolver<Dtype>::GetLearningRate() {{
  {real} rate;
  const string& lr_policy = this->param_.lr_policy();
  if (lr_policy == "fixed") {{
    rate = this->param_.base_lr();
  }} else if (lr_policy == "sigmoid") {{
    if (rate < 0) {{ rate = 0; }} else {{ rate += 0; }}
        (Dtype(1.) + exp(-this->param_.gamma() * (Dtype(this->iter_) -
          Dtype(this->param_.stepsize())))));
  }} else {{
    LOG(FATAL) << "Unknown learning rate policy: " << lr_policy;
  }}
  return rate;
}}
{get_momentum}
template <typename Dtype>
void SGDSolver<Dtype>::PreSolve() {{
  // Initialize the history
  const vector<Blob<Dtype>*>& net_params = this->net_->learnable_params();
  history_.clear();
}}

template <typename Dtype>
void SGDSolver<Dtype>::{print_rate}() {{
  {real} rate = GetLearningRate();
  if (this->param_.display() && this->iter_ % this->param_.display() == 0) {{
{rate_line}
  }}
  ClipGradients();
}}
{more}
template <typename Dtype>
void SGDSolver<Dtype>::ComputeUpdateValue(int param_id, Dtype rate) {{
  const vector<Blob<Dtype>*>& net_params = this->net_->learnable_params();
  const vector<float>& net_params_lr = this->net_->params_lr();
  {momentum}
  Dtype local_rate = rate * net_params_lr[param_id];
  // Compute the update to history, then copy it to the parameter diff.
{correction}}}

}}  // namespace caffe
"""

SOLVER = """#include "caffe/sgd_solvers.hpp"

namespace caffe {{

template <typename Dtype>
void {name}Solver<Dtype>::ComputeUpdateValue(int param_id, Dtype rate) {{
{lines}
}}

}}  // namespace caffe
"""

NESTEROV = """  const vector<Blob<Dtype>*>& net_params = this->net_->learnable_params();
  const vector<float>& net_params_lr = this->net_->params_lr();
  Dtype momentum = this->param_.momentum();
  Dtype local_rate = rate * net_params_lr[param_id];
  switch (Caffe::mode()) {
  }"""

ADAM = """  const vector<float>& net_params_lr = this->net_->params_lr();
  Dtype local_rate = rate * net_params_lr[param_id];
  const Dtype beta1 = this->param_.momentum();
  const Dtype beta2 = this->param_.momentum2();

  // update with beta1 and beta2"""

ADADELTA = """  const vector<float>& net_params_lr = this->net_->params_lr();
  Dtype delta = this->param_.delta();
  Dtype momentum = this->param_.momentum();
  Dtype local_rate = rate * net_params_lr[param_id];
  size_t update_history_offset = net_params.size();"""

CHAPTER = """# Solver

### SGD

It goes downhill.
    [ImageNet Classification with Deep Convolutional Neural Networks]({papers}{paper}.pdf).
    *Advances in Neural Information Processing Systems*, 2012.

### AdaDelta

It needs no rate.

### AdaGrad

It slows down.

### Adam

It corrects its bias.

### Nesterov
""".format(
    papers="http://papers.nips.cc/paper/",
    paper="4824-imagenet-classification-with-deep-convolutional-neural-networks",
)

BVLC_RATE_LINE = """    LOG_IF(INFO, Caffe::root_solver()) << "Iteration " << this->iter_
        << ", lr = " << rate;"""

ONE_LINE_RATE_LINE = """    LOG(INFO) << "Iteration " << this->iter_ << ", lr = " << rate;"""

NVIDIA_RATE_LINE = """    float moment = GetMomentum();
    float wd = GetWeightDecay();
    LOG(INFO) << "Iteration " << this->iter_ << ", lr = " << rate << ", m = " << moment
              << ", wd = " << wd;"""

NVIDIA_GET_MOMENTUM = """
template<typename Dtype>
float SGDSolver<Dtype>::GetMomentum() const {
  float base_momentum = this->param_.momentum();
  return this->param_.momentum_policy() == "fixed" ? base_momentum : 0.F;
}

template<typename Dtype>
float SGDSolver<Dtype>::GetWeightDecay() const {
  return this->param_.weight_decay();
}
"""

INTEL_FUSION = """
#ifdef ENABLE_SGD_FUSION
template <typename Dtype>
void SGDSolver<Dtype>::SGDFusion(int param_id, Dtype rate) {
  Dtype momentum = this->param_.momentum();
}
#endif /* ENABLE_SGD_FUSION */
"""

INTEL_CORRECTION = "    momentum = momentum * (rate / prev_rate);\n"


def _fields(*fields: str) -> str:
    return "".join(f"  {field};\n" for field in fields)


# What differs between the lines of Caffe: the last fields of SolverParameter, and how SGDSolver is written.
LINES = {
    "bvlc-rc3": {"fields": _fields("optional float momentum2 = 39"), "rate_line": ONE_LINE_RATE_LINE},
    "bvlc-1.0": {"fields": _fields("optional bool layer_wise_reduce = 41 [default = true]")},
    "bvlc-master": {
        "fields": "  // in repeated weights parameters separately.\n" + _fields("repeated string weights = 42"),
        "next": 43,
        "last": "weights",
    },
    "ssd": {
        "fields": _fields("repeated int32 plateau_winsize = 42", "optional string a = 43", "optional string b = 44"),
        "rate_line": ONE_LINE_RATE_LINE,
    },
    "nvidia-0.17": {
        "fields": _fields(
            *(f"optional int32 theirs_{n} = {n}" for n in range(41, 57)), "optional int32 test_iter_start = 244"
        ),
        "solver": "Solver",
        "real": "float",
        "get_momentum": NVIDIA_GET_MOMENTUM,
        "print_rate": "PrintRate",
        "rate_line": NVIDIA_RATE_LINE,
        "momentum": "float momentum = GetMomentum();",
    },
    "intel": {
        "fields": _fields(*(f"optional int32 theirs_{n} = {n}" for n in (41, 42, 43, 44, 46, 47, 52, 151))),
        "print_rate": "PrintLearningRate",
        "rate_line": ONE_LINE_RATE_LINE,
        "more": INTEL_FUSION,
        "correction": INTEL_CORRECTION,
    },
}


def build(root: Path, line: str) -> Path:
    """Write the stand-in tree of one line of Caffe (a key of LINES) into a folder."""
    parts = {"next": 42, "last": "type", "solver": "Solver<Dtype>", "real": "Dtype", "get_momentum": ""}
    parts.update({"print_rate": "ApplyUpdate", "rate_line": BVLC_RATE_LINE, "more": "", "correction": ""})
    parts.update({"momentum": "Dtype momentum = this->param_.momentum();", **LINES[line]})
    files = {
        "src/caffe/proto/caffe.proto": PROTO.format(**parts),
        "include/caffe/sgd_solvers.hpp": HEADER.format(**parts),
        "src/caffe/solvers/sgd_solver.cpp": SGD.format(**parts),
        "src/caffe/solvers/nesterov_solver.cpp": SOLVER.format(name="Nesterov", lines=NESTEROV),
        "src/caffe/solvers/adam_solver.cpp": SOLVER.format(name="Adam", lines=ADAM),
        "src/caffe/solvers/adadelta_solver.cpp": SOLVER.format(name="AdaDelta", lines=ADADELTA),
        "src/caffe/solvers/adagrad_solver.cpp": SOLVER.format(name="AdaGrad", lines="  // no momentum here"),
        "src/caffe/test/test_caffe_main.cpp": "int main() {}\n",
        "src/caffe/util/io.cpp": "// other sources\n",
        "include/caffe/util/io.hpp": "// other headers\n",
        "docs/tutorial/solver.md": CHAPTER,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of every file of a tree."""
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }

#include "caffe/util/cyclical_policy.hpp"

#include <glog/logging.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string>

namespace caffe {

namespace {

struct Triangle {
  double cycle;   // how many cycles are complete
  double height;  // 0 at the ends of a cycle, 1 in its middle
};

// The position in a cycle is a float, everything after it a double: that is
// how the runs that introduced these policies were computed.
Triangle TriangleAt(int iter, double step) {
  Triangle triangle;
  triangle.cycle = std::floor(iter / (2 * step));
  const float x = static_cast<float>(iter - (2 * triangle.cycle + 1) * step) /
      static_cast<float>(step);
  triangle.height = std::max(0., 1. - std::fabs(static_cast<double>(x)));
  return triangle;
}

double OneCycleRate(const SolverParameter& param, int iter) {
  const int step = param.stepsize();
  const double x = static_cast<float>(iter) / static_cast<float>(step);
  if (iter < step) {
    const float span = param.max_lr() - param.base_lr();
    return param.base_lr() + span * x;
  }
  if (iter < 2. * step) {
    return param.max_lr() * (2 - x);
  }
  return param.base_lr() / 1000.;
}

bool IsFraction(float value) {
  return value >= 0 && value <= 1;
}

}  // namespace

bool IsCyclicalPolicy(const std::string& lr_policy) {
  return lr_policy == "triangular" || lr_policy == "triangular2" ||
      lr_policy == "exp_range" || lr_policy == "1cycle";
}

float CyclicalLearningRate(const SolverParameter& param, int iter) {
  const std::string& lr_policy = param.lr_policy();
  if (lr_policy == "1cycle") {
    return OneCycleRate(param, iter);
  }
  const int since_start = iter - param.start_lr_policy();
  if (since_start <= 0) {
    return param.base_lr();
  }
  const Triangle triangle = TriangleAt(since_start, param.stepsize());
  const float span = param.max_lr() - param.base_lr();
  double rise = span * triangle.height;
  if (lr_policy == "triangular2") {
    rise /= std::pow(2., triangle.cycle);
  } else if (lr_policy == "exp_range") {
    rise *= std::pow(static_cast<double>(param.gamma()),
        static_cast<double>(since_start));
  }
  return param.base_lr() + rise;
}

float CyclicalMomentum(const SolverParameter& param, int iter) {
  const float momentum = param.momentum();
  if (param.cyclical_momentum_size() == 0) {
    return momentum;
  }
  const Triangle triangle = TriangleAt(iter, param.cyclical_momentum(1));
  const float span = param.cyclical_momentum(0) - momentum;
  return momentum + span * triangle.height / std::pow(2., triangle.cycle);
}

void CheckCyclicalPolicy(const SolverParameter& param) {
  if (IsCyclicalPolicy(param.lr_policy())) {
    CHECK(param.has_max_lr()) << "lr_policy \"" << param.lr_policy()
        << "\" needs the other bound of the learning rate: write"
        << " max_lr: RATE";
    CHECK_GT(param.stepsize(), 0) << "lr_policy \"" << param.lr_policy()
        << "\" needs the iterations from one bound to the other: write"
        << " stepsize: N with N > 0";
  }
  if (param.lr_policy() == "exp_range") {
    CHECK_GE(param.gamma(), 0) << "lr_policy \"exp_range\" multiplies the"
        << " height of the cycle by gamma^iteration: write for example"
        << " gamma: 0.9999";
  }
  if (param.cyclical_momentum_size() == 0) { return; }
  CHECK_EQ(param.cyclical_momentum_size(), 2) << "cyclical_momentum takes"
      << " exactly two values, the other bound of the momentum and the step"
      << " size in iterations: write for example"
      << " cyclical_momentum: 0.85 cyclical_momentum: 1000";
  CHECK(IsFraction(param.momentum())) << "momentum is " << param.momentum()
      << ", but with cyclical_momentum it must lie in [0, 1]: write for"
      << " example momentum: 0.95";
  CHECK(IsFraction(param.cyclical_momentum(0))) << "The first value of"
      << " cyclical_momentum is " << param.cyclical_momentum(0)
      << ", but it is the other bound of the momentum and must lie in [0, 1]:"
      << " write for example cyclical_momentum: 0.85";
  const float step = param.cyclical_momentum(1);
  CHECK(step > 0 && step <= FLT_MAX)
      << "The second value of cyclical_momentum is " << step
      << ", but it is the step size in iterations and must be positive: write"
      << " for example cyclical_momentum: 1000";
}

void RefuseCyclicalMomentum(const SolverParameter& param,
    const std::string& solver_type) {
  CHECK_EQ(param.cyclical_momentum_size(), 0) << "cyclical_momentum cannot be"
      << " used with " << solver_type << ", which has no momentum: remove it,"
      << " or write type: \"SGD\", \"Nesterov\", \"Adam\" or \"AdaDelta\"";
}

}  // namespace caffe

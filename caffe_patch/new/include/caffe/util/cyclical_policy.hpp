#ifndef CAFFE_UTIL_CYCLICAL_POLICY_HPP_
#define CAFFE_UTIL_CYCLICAL_POLICY_HPP_

#include <string>

#include "caffe/proto/caffe.pb.h"

namespace caffe {

/**
 * @brief Learning rate and momentum that move in cycles.
 *
 * A triangle wave of step size s has, at iteration i,
 *     cycle = floor(i / 2s)    x = |i - (2 cycle + 1) s| / s
 *     h = max(0, 1 - x)
 * so h is 0 at the start of a cycle and 1 in its middle. With s = stepsize
 * and i counted from start_lr_policy, the rate is base_lr before the start and
 *    - triangular:  base_lr + (max_lr - base_lr) * h
 *    - triangular2: base_lr + (max_lr - base_lr) * h / 2^cycle
 *    - exp_range:   base_lr + (max_lr - base_lr) * h * gamma^i
 * The policy 1cycle counts from iteration 0 and has one cycle only: base_lr to
 * max_lr in stepsize iterations, max_lr to 0 in another stepsize, and
 * base_lr / 1000 from there on.
 *
 * With cyclical_momentum: c and cyclical_momentum: t the momentum is
 *     momentum + (c - momentum) * h / 2^cycle
 * on the triangle of step size t, whatever the policy of the rate.
 */

/// True for triangular, triangular2, exp_range and 1cycle.
bool IsCyclicalPolicy(const std::string& lr_policy);

/// The learning rate of a cyclical policy at iteration iter.
float CyclicalLearningRate(const SolverParameter& param, int iter);

/// The momentum at iteration iter: `momentum` itself without a cycle.
float CyclicalMomentum(const SolverParameter& param, int iter);

/// Dies with an explanation if the cycle of rate or momentum is ill-defined.
void CheckCyclicalPolicy(const SolverParameter& param);

/// Dies if cyclical_momentum is set for a solver type without momentum.
void RefuseCyclicalMomentum(const SolverParameter& param,
    const std::string& solver_type);

}  // namespace caffe

#endif  // CAFFE_UTIL_CYCLICAL_POLICY_HPP_

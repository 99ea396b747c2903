#include <cmath>
#include <string>

#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

#include "caffe/common.hpp"
#include "caffe/sgd_solvers.hpp"
#include "caffe/solver_factory.hpp"

#include "caffe/test/test_caffe_main.hpp"

namespace caffe {

// A net of one weight w, whose gradient is w - 0.5, trained for two cycles and
// compared with the update rules written out by hand.
template <typename TypeParam>
class CyclicalSolverTest : public MultiDeviceTest<TypeParam> {
  typedef typename TypeParam::Dtype Dtype;

 protected:
  static const int kSteps = 9;

  static double Rate(int i) {
    const double rates[kSteps] =
        {0.1, 0.2, 0.3, 0.2, 0.1, 0.2, 0.3, 0.2, 0.1};
    return rates[i];
  }

  static double Momentum(int i) {
    const double momenta[kSteps] =
        {0.9, 0.7, 0.5, 0.7, 0.9, 0.8, 0.7, 0.8, 0.9};
    return momenta[i];
  }

  static shared_ptr<Solver<Dtype> > MakeSolver(const string& fields) {
    SolverParameter param;
    CHECK(google::protobuf::TextFormat::ParseFromString(fields +
        "base_lr: 0.1 max_lr: 0.3 lr_policy: 'triangular' stepsize: 2 "
        "cyclical_momentum: 0.5 cyclical_momentum: 2 "
        "random_seed: 1 net_param { "
        "  layer { name: 'data' type: 'DummyData' top: 'data' top: 'target' "
        "    dummy_data_param { shape { dim: 1 dim: 1 } "
        "      shape { dim: 1 dim: 1 } "
        "      data_filler { type: 'constant' value: 1 } "
        "      data_filler { type: 'constant' value: 0.5 } } } "
        "  layer { name: 'weight' type: 'InnerProduct' "
        "    bottom: 'data' top: 'product' "
        "    inner_product_param { num_output: 1 bias_term: false "
        "      weight_filler { type: 'constant' value: 2 } } } "
        "  layer { name: 'loss' type: 'EuclideanLoss' "
        "    bottom: 'product' bottom: 'target' } } ", &param));
    return shared_ptr<Solver<Dtype> >(
        SolverRegistry<Dtype>::CreateSolver(param));
  }

  static void ExpectNextWeight(Solver<Dtype>* solver, double expected) {
    solver->Step(1);
    const double weight =
        solver->net()->layer_by_name("weight")->blobs()[0]->cpu_data()[0];
    EXPECT_NEAR(expected, weight, 1e-5 * std::fabs(expected) + 1e-6)
        << solver->type() << " after iteration " << solver->iter() - 1;
  }
};

TYPED_TEST_CASE(CyclicalSolverTest, TestDtypesAndDevices);

TYPED_TEST(CyclicalSolverTest, TestSGD) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<Solver<Dtype> > solver =
      this->MakeSolver("type: 'SGD' momentum: 0.9 ");
  double weight = 2, history = 0;
  for (int i = 0; i < this->kSteps; ++i) {
    history = this->Momentum(i) * history + this->Rate(i) * (weight - 0.5);
    weight -= history;
    this->ExpectNextWeight(solver.get(), weight);
  }
}

TYPED_TEST(CyclicalSolverTest, TestNesterov) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<Solver<Dtype> > solver =
      this->MakeSolver("type: 'Nesterov' momentum: 0.9 ");
  double weight = 2, history = 0;
  for (int i = 0; i < this->kSteps; ++i) {
    const double m = this->Momentum(i);
    const double previous = history;
    history = m * history + this->Rate(i) * (weight - 0.5);
    weight -= (1 + m) * history - m * previous;
    this->ExpectNextWeight(solver.get(), weight);
  }
}

TYPED_TEST(CyclicalSolverTest, TestAdam) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<Solver<Dtype> > solver = this->MakeSolver(
      "type: 'Adam' momentum: 0.9 momentum2: 0.99 delta: 1e-3 ");
  double weight = 2, first = 0, second = 0;
  for (int i = 0; i < this->kSteps; ++i) {
    const double m = this->Momentum(i);
    const double gradient = weight - 0.5;
    first = m * first + (1 - m) * gradient;
    second = 0.99 * second + 0.01 * gradient * gradient;
    const double correction =
        std::sqrt(1 - std::pow(0.99, i + 1)) / (1 - std::pow(m, i + 1));
    weight -= this->Rate(i) * correction * first / (std::sqrt(second) + 1e-3);
    this->ExpectNextWeight(solver.get(), weight);
  }
}

TYPED_TEST(CyclicalSolverTest, TestAdaDelta) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<Solver<Dtype> > solver =
      this->MakeSolver("type: 'AdaDelta' momentum: 0.9 delta: 0.1 ");
  double weight = 2, gradients = 0, updates = 0;
  for (int i = 0; i < this->kSteps; ++i) {
    const double m = this->Momentum(i);
    const double gradient = weight - 0.5;
    gradients = m * gradients + (1 - m) * gradient * gradient;
    const double update =
        gradient * std::sqrt((updates + 0.1) / (gradients + 0.1));
    updates = m * updates + (1 - m) * update * update;
    weight -= this->Rate(i) * update;
    this->ExpectNextWeight(solver.get(), weight);
  }
}

TYPED_TEST(CyclicalSolverTest, TestRefusals) {
  EXPECT_DEATH(this->MakeSolver("type: 'AdaGrad' "),
      "cannot be used with AdaGrad");
  EXPECT_DEATH(this->MakeSolver("type: 'RMSProp' rms_decay: 0.9 "),
      "cannot be used with RMSProp");
  EXPECT_DEATH(this->MakeSolver("cyclical_momentum: 0.5 "),
      "exactly two values");
}

}  // namespace caffe

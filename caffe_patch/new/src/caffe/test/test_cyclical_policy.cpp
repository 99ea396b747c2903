#include <string>

#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

#include "caffe/proto/caffe.pb.h"
#include "caffe/util/cyclical_policy.hpp"

#include "caffe/test/test_caffe_main.hpp"

namespace caffe {

class CyclicalPolicyTest : public ::testing::Test {
 protected:
  static SolverParameter Parse(const std::string& text) {
    SolverParameter param;
    CHECK(google::protobuf::TextFormat::ParseFromString(text, &param));
    return param;
  }

  static void ExpectRates(const std::string& text, const float* expected,
      int count) {
    const SolverParameter param = Parse(text);
    for (int i = 0; i < count; ++i) {
      EXPECT_FLOAT_EQ(expected[i], CyclicalLearningRate(param, i))
          << param.lr_policy() << " at iteration " << i;
    }
  }

  static void ExpectMomenta(const std::string& text, const float* expected,
      int count) {
    const SolverParameter param = Parse(text);
    for (int i = 0; i < count; ++i) {
      EXPECT_FLOAT_EQ(expected[i], CyclicalMomentum(param, i))
          << "at iteration " << i;
    }
  }

  // The six digits that a log prints.
  static void ExpectPrinted(double expected, double value) {
    EXPECT_NEAR(expected, value, 5e-6 * expected);
  }
};

TEST_F(CyclicalPolicyTest, TestNames) {
  EXPECT_TRUE(IsCyclicalPolicy("triangular"));
  EXPECT_TRUE(IsCyclicalPolicy("triangular2"));
  EXPECT_TRUE(IsCyclicalPolicy("exp_range"));
  EXPECT_TRUE(IsCyclicalPolicy("1cycle"));
  EXPECT_FALSE(IsCyclicalPolicy("exp"));
  EXPECT_FALSE(IsCyclicalPolicy(""));
}

TEST_F(CyclicalPolicyTest, TestTriangular) {
  const float expected[] = {1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2, 1};
  ExpectRates("lr_policy: 'triangular' base_lr: 1 max_lr: 3 stepsize: 2",
      expected, 13);
}

TEST_F(CyclicalPolicyTest, TestTriangular2) {
  const float expected[] = {1, 2, 3, 2, 1, 1.5, 2, 1.5, 1, 1.25, 1.5, 1.25, 1};
  ExpectRates("lr_policy: 'triangular2' base_lr: 1 max_lr: 3 stepsize: 2",
      expected, 13);
}

TEST_F(CyclicalPolicyTest, TestExpRange) {
  const float expected[] = {1, 1.5, 1.5, 1.125, 1, 1.03125, 1.03125};
  ExpectRates("lr_policy: 'exp_range' base_lr: 1 max_lr: 3 stepsize: 2 "
      "gamma: 0.5", expected, 7);
}

TEST_F(CyclicalPolicyTest, TestOneCycle) {
  const float expected[] = {1, 1.5, 2, 2.5, 3, 2.25, 1.5, 0.75, 0.001, 0.001};
  ExpectRates("lr_policy: '1cycle' base_lr: 1 max_lr: 3 stepsize: 4",
      expected, 10);
}

TEST_F(CyclicalPolicyTest, TestStart) {
  const float expected[] = {1, 1, 1, 1, 2, 3, 2, 1, 2};
  ExpectRates("lr_policy: 'triangular' base_lr: 1 max_lr: 3 stepsize: 2 "
      "start_lr_policy: 3", expected, 9);
}

TEST_F(CyclicalPolicyTest, TestOneCycleHasNoStart) {
  const float expected[] = {1, 2, 3, 1.5};
  ExpectRates("lr_policy: '1cycle' base_lr: 1 max_lr: 3 stepsize: 2 "
      "start_lr_policy: 3", expected, 4);
}

TEST_F(CyclicalPolicyTest, TestFallingRangeTest) {
  const float expected[] = {3, 2.5, 2, 1.5, 1};
  ExpectRates("lr_policy: 'triangular' base_lr: 3 max_lr: 1 stepsize: 4",
      expected, 5);
}

TEST_F(CyclicalPolicyTest, TestMomentumHalvesWithEveryCycle) {
  const float expected[] = {
    0.9, 0.7, 0.5, 0.7, 0.9, 0.8, 0.7, 0.8, 0.9, 0.85, 0.8, 0.85, 0.9};
  const std::string momentum =
      "momentum: 0.9 cyclical_momentum: 0.5 cyclical_momentum: 2 ";
  ExpectMomenta(momentum, expected, 13);
  ExpectMomenta(momentum + "lr_policy: 'triangular' stepsize: 5",
      expected, 13);
  ExpectMomenta(momentum + "lr_policy: '1cycle' stepsize: 5 start_lr_policy: 4",
      expected, 13);
}

TEST_F(CyclicalPolicyTest, TestConstantMomentum) {
  const float expected[] = {0.9, 0.9, 0.9};
  ExpectMomenta("momentum: 0.9", expected, 3);
}

TEST_F(CyclicalPolicyTest, TestPublishedRun) {
  // Points of the log of a published training run of a residual net.
  const SolverParameter param = Parse("lr_policy: '1cycle' base_lr: 0.1 "
      "max_lr: 1.2 stepsize: 3417 momentum: 0.95 "
      "cyclical_momentum: 0.85 cyclical_momentum: 3417");
  const int iterations[] = {0, 100, 3400, 3500, 6800, 6900};
  const double rates[] = {0.1, 0.132192, 1.19453, 1.17085, 0.0119403, 0.0001};
  const double momenta[] =
      {0.95, 0.947073, 0.850498, 0.852429, 0.949005, 0.949034};
  for (int i = 0; i < 6; ++i) {
    ExpectPrinted(rates[i], CyclicalLearningRate(param, iterations[i]));
    ExpectPrinted(momenta[i], CyclicalMomentum(param, iterations[i]));
  }
}

TEST_F(CyclicalPolicyTest, TestValidSettings) {
  CheckCyclicalPolicy(Parse(""));
  CheckCyclicalPolicy(Parse("lr_policy: 'fixed' momentum: 2"));
  CheckCyclicalPolicy(Parse("lr_policy: '1cycle' max_lr: 1 stepsize: 1"));
  CheckCyclicalPolicy(Parse("momentum: 0.9 cyclical_momentum: 1 "
      "cyclical_momentum: 10"));
}

TEST_F(CyclicalPolicyTest, TestInvalidSettings) {
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("lr_policy: '1cycle' stepsize: 1")),
      "write max_lr");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("lr_policy: 'triangular' max_lr: 1")),
      "write stepsize");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("lr_policy: 'exp_range' max_lr: 1 "
      "stepsize: 1 gamma: -1")), "write for example gamma");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("cyclical_momentum: 0.8")),
      "exactly two values");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("cyclical_momentum: 0.8 "
      "cyclical_momentum: 10 cyclical_momentum: 1")), "exactly two values");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("cyclical_momentum: 0.8 "
      "cyclical_momentum: 0")), "must be positive");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("cyclical_momentum: 0.8 "
      "cyclical_momentum: nan")), "must be positive");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("cyclical_momentum: 1.1 "
      "cyclical_momentum: 10")), "first value of cyclical_momentum is 1.1");
  EXPECT_DEATH(CheckCyclicalPolicy(Parse("momentum: -0.1 "
      "cyclical_momentum: 0.8 cyclical_momentum: 10")), "momentum is -0.1");
  EXPECT_DEATH(RefuseCyclicalMomentum(Parse("cyclical_momentum: 0.8 "
      "cyclical_momentum: 10"), "AdaGrad"), "AdaGrad, which has no momentum");
}

}  // namespace caffe

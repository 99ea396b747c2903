"""What the page of the paper says around its numbers."""

HEAD = """# The paper, run again

Leslie N. Smith's *A disciplined approach to neural network hyper-parameters*
([arXiv 1803.09820](https://arxiv.org/abs/1803.09820)) came without the code that made its numbers. Here each of its
tables and figures is a file of `experiments/` that anyone can run, together with what the paper claims of it. This page
lays beside one another what is printed there and what has come out here so far.
"""

BEFORE = """**Before you compare:**

- *Most is shortened or has few runs.* Two cores made it. Of curves with one run each a claim can only point one way or
  the other, and the numbers of shortened runs are not the paper's; only what they compare may be.
- *How long the runs of its figures were* the paper mostly does not say: where a section says nothing else, the full
  length is our guess.
- *The paper's moving momentum most likely stood still*: each of its rows with a moving momentum has the accuracy of the
  row with that momentum's first value ([why](#table-1-constant-and-cyclical-momentum)). Here it moves, as the paper
  says. With a momentum that stands still LeNet has here what it has there
  ([asked again](#asked-again-where-9925--in-12-epochs-may-come-from)).
- *The CIFAR-10 images of these runs went through JPEG* before they came here (quality 75, colours at half the
  resolution), so less than the paper is to be expected; those of `pysolver data cifar10` did not.
- *Nets and solvers are the author's* where he has published them
  ([hyperParam1](https://github.com/lnsmith54/hyperParam1)): nets for CIFAR, templates of solvers, the script that fills
  them in, some logs. Solvers on CIFAR are of type Nesterov, as all of his; LeNet's are SGD, Caffe's own for that net.
  Mirror and mean are as in his nets: the mean alone with 3 layers, both in the deeper nets, neither in LeNet.
- *BatchNorm* keeps averages over about 10 batches (`moving_average_fraction: 0.9`, as in his residual nets); with
  Caffe's 0.999, which his densenet has, tests in short runs judge statistics of long ago.
- *Parameters*: 3-layer 89 578, LeNet 431 080, resnet-56 860 874 (He's has 0.85 M), wide-32 5 903 626 (the author's,
  whose stages have 16, 64 and 256 channels), densenet-40 1 019 722, resnet-50 25 557 032, inception-resnet-v2
  55 843 464.
"""

READING = """## How to read it

**Rates and momenta** are written as in the paper: `0.01-0.10/5` is one cycle, from 0.01 up to 0.10 in 5 epochs and down
again; of a momentum it is the other bound and the same step. `0.001 to 0.01` is one way over the whole run: a range
test. A single number stands still.

**Numbers** are mean ± deviation of the runs, whose count stands in brackets. Runs of one curve differ in their seed,
from the third on in their batch size by a little (b, b, b - b/128, b + b/128), and in turn in their fillers (xavier,
msra) where the net has either: the 3-layer net's are gaussian, so that of two runs of it the seed alone differs. The
author's script gives each of his four runs another batch size, 128 to 140. In the pictures a bold line is the mean of a
curve's runs, thin ones are the runs. The *generalisation error* is the test loss less the train loss, both means of the
last quarter of a run where it is one number. A range test *breaks* at the rate from which on the test loss has left its
minimum for good, or where the net lived last; *no break* means that none was seen up to the highest rate, *flat* that
the net never learned, so that nobody knows; flat runs are left out.

**Verdicts.** A claim *holds* if Student's t test says so at 5 % for each pair of it, with the variance of all its
curves together. It *does not* if the test says the opposite of one pair, at 5 % divided by the number of pairs. Between
them it is *within the noise*: *as claimed* if the means are in the paper's order, *the other way* if not, *neither way*
if they are equal. Runs that diverged, or showed no break, are beyond all others, without a test: two or more of one
curve, all of which did so, against two or more of the other, none of which did; where only some did, the curve with
more of them points beyond the other. With one run of each curve there is no noise to measure, and all is within it.
*Not seen* is a claim if the runs of a curve do not tell it. That two curves are equal holds if two such tests put the
difference inside the margin. A row *agrees* if Welch's test, at 5 %, cannot tell it from the paper's four runs, which
with two runs is easily so. At 5 %, of twenty claims with nothing in them one holds.

**Where the numbers come from.** Each section names its file in `experiments/results/`: one line a run, with its curves,
seed, batch, commit, date and machine. The page and its pictures are made of these, never edited:

    pysolver reproduce --page docs/paper.md

**To run one**, in a checkout (a run that is killed goes on from its last snapshot):

    pysolver data mnist experiments/data/mnist                    # downloads; --from DIR uses the files you have
    pysolver reproduce table2 --rows lenet --scale 0.02 --runs 1  # minutes: a fiftieth of each run, to see it work
    pysolver reproduce table2 --rows lenet --runs 4               # the whole, hours
"""

"""pysolver: Caffe's nets and solvers on PyTorch, and its logs without it."""

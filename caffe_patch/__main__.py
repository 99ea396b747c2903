"""Lets `python -m caffe_patch` run the command line."""

import sys

from caffe_patch.cli import main

sys.exit(main())
